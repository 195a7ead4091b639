{# The settings that times are read by, {formats, zone}, from the workspace's parameters. They are constants of the
   rendered SQL, because DuckDB wants a format to be one. #}
{% macro time_settings() -%}
  {%- set times = {'formats': [], 'zone': 'UTC'} -%}
  {%- if execute -%}
    {%- set file = target.path | replace('/warehouse/build.duckdb', '/parameters.parquet') | replace("'", "''") -%}
    {%- set found = run_query("select timestamp_format, time_zone from read_parquet('" ~ file ~ "')").rows[0] -%}
    {%- do times.update({'formats': fromjson(found[0]), 'zone': found[1]}) -%}
  {%- endif -%}
  {{ return(times) }}
{%- endmacro %}

{# CTEs that end in `timed`: the rows of the CTE `ordered` with time_text (the value of `column`), time_at (the moment;
   NULL where the text tells none) and time_form (how it was read). Reads the CTE `landed` too, for what the values of a
   file show together: whether its numbers are dates or days of a spreadsheet, and whether day or month comes first.
   `times` is {formats, zone}: a text of one of the formats is read by it, and times without a zone are of `zone`.

   time_form: `stated` (data.timestamp_format), `epoch` (seconds to nanoseconds since 1970, told apart by size),
   `date_number` (20240501), `excel` (days since 1899-12-30), `iso`, `written` (1 May 2024), `day_first`, `month_first`,
   `month_first_assumed`; without a moment: `suspect` (a number that would fall before 1980), `ambiguous` (day and month
   in a file that has both orders), `unreadable`. #}
{% macro read_times(column, times) -%}
time_notes as (
  select
    filename,
    {{ time_parts(column, times) }},
  from landed
),

time_facts as (
  select
    filename,
    separator,
    2 * count(number_at) > count(*) filter (is_early) as has_date_numbers,
    count(*) filter (time_number between 20000 and 60000) >= 0.9 * count(time_number) as has_excel_numbers,
    coalesce(bool_or(part1 > 12 and part2 <= 12), false) as has_day_first,
    coalesce(bool_or(part1 <= 12 and part2 > 12), false) as has_month_first,
  from time_notes
  group by filename, separator
),

-- A file in which no part is over 12 follows the other files.
time_orders as (
  select
    filename,
    separator,
    has_date_numbers,
    has_excel_numbers,
    case
      when has_day_first or has_month_first then has_day_first
      else bool_or(has_day_first) over same_separator
    end as is_day_first,
    case
      when has_day_first or has_month_first then has_month_first
      else bool_or(has_month_first) over same_separator
    end as is_month_first,
    case
      when is_day_first and is_month_first then 'ambiguous'
      when is_month_first then 'month_first'
      when is_day_first or separator = '.' then 'day_first'
      else 'month_first_assumed'
    end as day_order,
  from time_facts
  window same_separator as (partition by separator)
),

spelled as (
  select
    *,
    {{ time_parts(column, times) }},
    {{ iso_time('free_text', times.zone) }} as iso_at,
    case when time_number is null and iso_at is null then {{ written_date('free_text') }} end as written,
    {{ clock_of("coalesce(nullif(written['clock'], ''), nullif(day_month['clock'], ''))") }} as clock,
  from ordered
),

formed as (
  select
    spelled.*,
    case
      when stated_at is not null then 'stated'
      when has_excel_numbers and time_number between 29221 and 60000 then 'excel'
      when number_at is not null and (has_date_numbers or not is_early) then 'date_number'
      when is_early then 'suspect'
      when time_number is not null then 'epoch'
      when iso_at is not null then 'iso'
      when written.year <> '' then 'written'
      when part1 > 12 and part2 <= 12 then 'day_first'
      when part1 <= 12 and part2 > 12 then 'month_first'
      when part1 <= 12 and part2 <= 12 then day_order
    end as form,
    case form
      when 'written' then concat_ws('-', written.year, {{ month_number('written.month') }}, written.day)
      when 'day_first' then concat_ws('-', {{ full_year('day_month.year') }}, part2, part1)
      else concat_ws('-', {{ full_year('day_month.year') }}, part1, part2)
    end as date_text,
  from spelled
  left join time_orders
    on time_orders.filename = spelled.filename
    and time_orders.separator is not distinct from spelled.separator
),

timed as (
  select
    * exclude (
      stated_at, free_text, time_number, is_early, number_at, day_month, part1, part2, separator, iso_at, written,
      clock, form, date_text
    ),
    case
      when form = 'stated' then stated_at
      when form = 'excel' then {{ excel_time('time_number', times.zone) }}
      when form = 'date_number' then {{ in_zone('number_at', times.zone) }}
      when form = 'epoch' then make_timestamptz(cast({{ epoch_seconds('time_number') }} * 1e6 as bigint))
      when form = 'iso' then iso_at
      when form in ('written', 'day_first', 'month_first', 'month_first_assumed')
        then {{ time_at_clock('date_text', 'clock', times.zone) }}
    end as time_at,
    case
      when form in ('suspect', 'ambiguous') or time_at is not null then form
      when time_text is not null then 'unreadable'
    end as time_form,
  from formed
)
{%- endmacro %}

{# What the text of `column` looks like by itself. Part 1 and 2 of 31.12.2024 23:59, 12/31/24 or `12 31, 2024` are the
   day and the month, in one order or the other. #}
{% macro time_parts(column, times) -%}
    nullif(
      if(starts_with({{ column }}, ' ') or ends_with({{ column }}, ' '), trim({{ column }}), {{ column }}), ''
    ) as time_text,
    {{ stated_time('time_text', times) }} as stated_at,
    case when stated_at is null then time_text end as free_text,
    case
      when regexp_full_match(free_text, '[+-]?[0-9]{1,20}([.,][0-9]*)?([eE][+]?[0-9]{1,2})?')
        then try_cast(replace(free_text, ',', '.') as double)
    end as time_number,
    coalesce({{ epoch_seconds('time_number') }} < 315532800, false) as is_early,
    case
      when not is_early and time_number not between 19e12 and 21e12 then null
      when regexp_full_match(free_text, '(19|20)[0-9]{2}([0-9]{4}|[0-9]{8}|[0-9]{10})?([.]0*)?')
        then try_strptime(split_part(free_text, '.', 1), ['%Y%m%d', '%Y%m%d%H%M%S', '%Y%m%d%H%M', '%Y'])
    end as number_at,
    case
      when time_number is not null then null
      when regexp_matches(free_text, '^([A-Za-z]+,? +)?[0-9]{1,2}[./ -] ?[0-9]{1,2}[./, -]')
        then regexp_extract(
          free_text,
          '^(?:[A-Za-z]+,? +)?([0-9]{1,2})([./ -]) ?([0-9]{1,2})(?:[./-]|, ?| ) ?([0-9]{4}|[0-9]{2})(?:[ ,T]+(.*))?$',
          ['part1', 'separator', 'part2', 'year', 'clock']
        )
    end as day_month,
    try_cast(day_month['part1'] as integer) as part1,
    try_cast(day_month['part2'] as integer) as part2,
    nullif(day_month['separator'], '') as separator
{%- endmacro %}

{# A text by the formats of the settings: `epoch_s`, `epoch_ms`, `excel` or one of strptime. #}
{% macro stated_time(text, times) -%}
  {%- set number = 'try_cast(' ~ text ~ ' as double)' -%}
  coalesce(
    {%- for format in times.formats %}
      {% if format == 'epoch_s' -%}
        try(make_timestamptz(cast({{ number }} * 1e6 as bigint)))
      {%- elif format == 'epoch_ms' -%}
        try(make_timestamptz(cast({{ number }} * 1e3 as bigint)))
      {%- elif format == 'excel' -%}
        {{ excel_time('try_cast(replace(' ~ text ~ ", ',', '.') as double)", times.zone) }}
      {%- else -%}
        {%- set read = 'try_strptime(' ~ text ~ ", '" ~ format | replace("'", "''") ~ "')" -%}
        {{ read if '%z' in format or '%Z' in format else in_zone(read, times.zone) }}
      {%- endif %},
    {%- endfor %} null::timestamptz)
{%- endmacro %}

{# A time without a zone, as the moment at which clocks of `zone` show it. Of an hour that comes twice the second one is
   meant; a time in an hour that is left out is moved by that hour. #}
{% macro in_zone(time, zone) -%}
  ({{ time }} at time zone '{{ zone | replace("'", "''") }}')
{%- endmacro %}

{% macro excel_time(number, zone) -%}
  {{ in_zone("try(timestamp '1899-12-30' + to_seconds(round(" ~ number ~ ' * 86400)))', zone) }}
{%- endmacro %}

{% macro epoch_seconds(number) -%}
  case
    when abs({{ number }}) < 1e11 then {{ number }}
    when abs({{ number }}) < 1e14 then {{ number }} / 1e3
    when abs({{ number }}) < 1e17 then {{ number }} / 1e6
    when abs({{ number }}) < 1e20 then {{ number }} / 1e9
  end
{%- endmacro %}

{# ISO 8601, with or without a zone. #}
{% macro iso_time(text, zone) -%}
  case
    when time_number is not null or not regexp_matches({{ text }}, '^[0-9]{4}[-/]') then null
    {%- if zone != 'UTC' %}
    when not regexp_matches({{ text }}, ':[0-9].*([+-][0-9]|[A-Za-z])')
      then {{ in_zone('try_cast(' ~ text ~ ' as timestamp)', zone) }}
    {%- endif %}
    when isfinite(try_cast({{ text }} as timestamptz)) then try_cast({{ text }} as timestamptz)
  end
{%- endmacro %}

{# {day, month, year, clock} of a date with a name of a month, or with the year first: 5 Jan 2024, January 5, 2024,
   05/Jan/2024:09:31:59 +0200, Fri Jan 05 09:31:59 +0000 2024, 2024.01.05 9:31 PM, 20240105T093159Z. #}
{% macro written_date(text) -%}
  regexp_extract(
    regexp_replace(
      regexp_replace(
        regexp_replace(
          regexp_replace(
            regexp_replace({{ text }}, '^(?i)(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? +', ''),
            '^([A-Za-z]{3,9}) +([0-9]{1,2}) +([0-9]{1,2}:[0-9:.]+)(?: +(.*))? +([0-9]{4})$', '\2 \1 \5 \3 \4'
          ),
          '^([A-Za-z]{3,9})[.]?[ -]+([0-9]{1,2})(?:st|nd|rd|th)?,?[ -]+([0-9]{4})\b', '\2 \1 \3'
        ),
        '^([0-9]{4})[./-]([0-9]{1,2})[./-]([0-9]{1,2})\b', '\3 M\2 \1'
      ),
      '^([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})?', '\3 M\2 \1 \4:\5:\6'
    ),
    '^([0-9]{1,2})(?:st|nd|rd|th)?[ ./-]+([A-Za-z]{3,9}|M[0-9]{1,2})[ .,/-]+([0-9]{4})(?:[ ,:T]+(.*))?$',
    ['day', 'month', 'year', 'clock']
  )
{%- endmacro %}

{# The number of a month from its English name or its first three letters, or from M1 to M12. #}
{% macro month_number(name) -%}
  coalesce(
    try_cast(substr({{ name }}, 2) as integer),
    list_position(
      ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'],
      lower(left({{ name }}, 3))
    )
  )
{%- endmacro %}

{% macro full_year(year) -%}
  case
    when length({{ year }}) = 4 then {{ year }}
    when {{ year }} < '70' then '20' || {{ year }}
    else '19' || {{ year }}
  end
{%- endmacro %}

{# {hour, minute, second, half, utc, offset, name} of 23:04, 9:31:59.5 PM, 09:31 UTC, 09:31 GMT+0200 (CEST). #}
{% macro clock_of(text) -%}
  regexp_extract(
    {{ text }},
    '^([0-9]{1,2})(:[0-9]{2})?(:[0-9]{2}(?:[.,][0-9]+)?)?(?: ?([AaPp])[.]?[Mm][.]?(?:\b|$))?'
    '(?: ?(Z|UTC|GMT))?(?: ?([+-][0-9]{2}:?[0-9]{0,2}))?(?: ([A-Za-z]+(?:/[A-Za-z_]+)?))?(?: *[(].*[)])? *$',
    ['hour', 'minute', 'second', 'half', 'utc', 'offset', 'name']
  )
{%- endmacro %}

{# The moment of a date, as text of ISO 8601, at a clock of `clock_of`; without a clock, at midnight. #}
{% macro time_at_clock(date, clock, zone) -%}
  case
    when {{ clock }} is null then {{ in_zone('try_cast(' ~ date ~ ' as timestamp)', zone) }}
    when {{ clock }}.offset <> '' or {{ clock }}.utc <> '' or {{ clock }}.name <> ''
      then try_cast(
        {{ at_clock(date, clock) }} || case
          when {{ clock }}.offset <> '' then {{ clock }}.offset
          when {{ clock }}.utc <> '' then 'Z'
          else ' ' || {{ clock }}.name
        end as timestamptz
      )
    else {{ in_zone('try_cast(' ~ at_clock(date, clock) ~ ' as timestamp)', zone) }}
  end
{%- endmacro %}

{% macro at_clock(date, clock) -%}
  concat(
    {{ date }},
    ' ',
    case {{ clock }}.half
      when '' then {{ clock }}.hour
      else cast(try_cast({{ clock }}.hour as integer) % 12 + if(lower({{ clock }}.half) = 'p', 12, 0) as varchar)
    end,
    coalesce(nullif({{ clock }}.minute, ''), ':00'),
    replace({{ clock }}.second, ',', '.')
  )
{%- endmacro %}

{# The fixed date of a split, for data that came with its splits; `serve` is the day after the last one. #}
{% macro split_date(split) -%}
  case {{ split }}
    when 'train' then timestamptz '2000-01-01 00:00:00+00'
    when 'valid' then timestamptz '2000-01-02 00:00:00+00'
    when 'serve' then timestamptz '2000-01-04 00:00:00+00'
    else timestamptz '2000-01-03 00:00:00+00'
  end
{%- endmacro %}

{# When this build ran: the `created_at` of feature rows. Of rows with one as_of the feature store takes the newest. #}
{% macro build_time() -%}
  timestamptz '{{ run_started_at.astimezone(modules.pytz.utc).strftime("%Y-%m-%d %H:%M:%S+00") }}'
{%- endmacro %}
