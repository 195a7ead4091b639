{# Where an external model is written: the folder of this build. The variable is read when the model runs, not when the
   project is parsed, so that dbt can reuse what it parsed before. #}
{% macro external_location(relation, config) -%}
  {{ env_var('RECLM_EXTERNAL_ROOT', adapter.external_root()) | replace("'", "''") }}/{{ relation.identifier }}.parquet
{%- endmacro %}
