{# Rows of one artifact file whose version counts now. `types` maps each column to its type. #}
{% macro current_results(kind, table, types) %}
select
  current.version,
  {% for column, type in types.items() -%}
  results.{{ column }}::{{ type }} as {{ column }},
  {% endfor %}
from {{ source('artifacts', table) }} as results
inner join {{ ref('stg_current_artifacts') }} as current
  on current.kind = '{{ kind }}'
  and current.version = {{ artifact_version('results.filename') }}
{% endmacro %}
