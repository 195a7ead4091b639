{# The rows of a landing table that were set apart, each with its reason and remedy. Reads two CTEs: `base`, the rows of
   the base model, and `reasons`, the seed quarantine_reasons. #}
{% macro quarantined_rows(table_name) -%}
select
  base.reason,
  reasons.field,
  left(base.faulty_value, 200) as value,
  reasons.remedy,
  base.source_file,
  base.source_row,
  base.raw,
from base
left join reasons
  on reasons.table_name = '{{ table_name }}'
  and reasons.reason = base.reason
where base.status = 'quarantined'
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
