{# A time from text: ISO 8601 with or without a zone (without: UTC), seconds, milliseconds, microseconds or
   nanoseconds since 1970 (distinguished by size), or the 12-hour form of Microsoft's news log. NULL for other texts. #}
{% macro parse_timestamp(text) -%}
  case
    when regexp_full_match({{ text }}, '[+-]?[0-9]{1,20}(\.[0-9]*)?([eE][+]?[0-9]{1,2})?')
      then {{ epoch_timestamp('try_cast(' ~ text ~ ' as double)') }}
    when isfinite(try_cast({{ text }} as timestamptz)) then try_cast({{ text }} as timestamptz)
    else try_strptime(
      {{ text }},
      ['%m/%d/%Y %I:%M:%S %p', '%a, %d %b %Y %H:%M:%S GMT', '%Y%m%dT%H%M%SZ']
    ) at time zone 'UTC'
  end
{%- endmacro %}

{% macro epoch_timestamp(number) -%}
  case
    when abs({{ number }}) < 1e11 then make_timestamptz(cast({{ number }} * 1e6 as bigint))
    when abs({{ number }}) < 1e14 then make_timestamptz(cast({{ number }} * 1e3 as bigint))
    when abs({{ number }}) < 1e17 then make_timestamptz(cast({{ number }} as bigint))
    when abs({{ number }}) < 1e20 then make_timestamptz(cast({{ number }} / 1e3 as bigint))
  end
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
