{# The rows of a landing table that were set apart, each with its reason and remedy. Reads three CTEs: `base`, the rows
   of the base model, `reasons`, the seed quarantine_reasons, and `unreadable`, the lines that no value could be read
   from (unreadable_lines). #}
{% macro quarantined_rows(table_name) -%}
select
  base.reason,
  reasons.field,
  left(coalesce(base.faulty_value, unreadable.line), 200) as value,
  reasons.remedy,
  base.source_file,
  base.source_row,
  case
    when unreadable.line is null then base.raw
    else to_json({'line': left(unreadable.line, 2000), 'problem': unreadable.problem})
  end as raw,
from base
left join reasons
  on reasons.table_name = '{{ table_name }}'
  and reasons.reason = base.reason
left join unreadable
  on unreadable.batch_number = base.batch_number
  and unreadable.source_row = base.source_row
  and base.reason = 'unreadable_line'
where base.status = 'quarantined'
{%- endmacro %}

{# The text of each line of a landing table that no value could be read from, and why. Reads two CTEs: `rejected` and
   `batches`. #}
{% macro unreadable_lines(table_name) -%}
select
  batches.batch_number,
  rejected.source_row,
  rejected.line,
  rejected.reason as problem,
from rejected
inner join batches
  on batches.table_name = rejected."table"
  and batches.batch = parse_filename(rejected.filename, true)
where rejected."table" = '{{ table_name }}'
{%- endmacro %}

{# The values of a landed row as JSON, each cut to 2,000 characters. #}
{% macro raw_values(columns) -%}
  to_json({ {%- for column in columns %}'{{ column }}': left({{ column }}, 2000), {% endfor -%} })
{%- endmacro %}

{# The value of an interaction that its `reason` is about. #}
{% macro faulty_interaction_value() -%}
case
    when reason = 'missing_user_id' then user_id
    when reason = 'missing_item_id' or reason = 'unknown_item' then item_id
    when reason = 'id_too_long' and length(user_id) > 512 then user_id
    when reason = 'id_too_long' then item_id
    when reason = 'future_event' or ends_with(reason, '_timestamp') then event_ts
    when reason = 'bad_weight' then weight
    when reason = 'unknown_event_type' then event_type
    when reason = 'unknown_split' then split
  end
{%- endmacro %}
