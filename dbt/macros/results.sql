{# The rows of an artifact file that are of a current version, typed. Reads the CTEs `results` (the source) and
   `current_artifacts` (stg_current_artifacts). `types` maps each column to its type. #}
{% macro current_results(kind, types) %}
select
  current_artifacts.version,
  {% for column, type in types.items() -%}
  results.{{ column }}::{{ type }} as {{ column }},
  {% endfor %}
from results
inner join current_artifacts
  on current_artifacts.kind = '{{ kind }}'
  and current_artifacts.version = {{ artifact_version('results.filename') }}
{% endmacro %}
