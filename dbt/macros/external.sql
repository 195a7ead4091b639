{# Where an external model is written: the folder of this build. The variable is read when the model runs, not when the
   project is parsed, so that dbt can reuse what it parsed before. #}
{% macro external_location(relation, config) -%}
  {{ env_var('RECLM_EXTERNAL_ROOT', adapter.external_root()) | replace("'", "''") }}/{{ relation.identifier }}.parquet
{%- endmacro %}

{# Replaces the view of an external mart by one whose file is named relative to the workspace, so that the workspace can
   be moved; readers set DuckDB's `file_search_path` to the workspace. dbt-duckdb writes one row of NULLs where there is
   none: it is left out. #}
{% macro view_relative_to_workspace() -%}
  {%- set workspace = target.path | replace('/warehouse/build.duckdb', '') -%}
  {%- set location = external_location(this, none) | trim | replace(workspace | replace("'", "''") ~ '/', '') -%}
  create or replace view {{ this }} as
  select * from read_parquet('{{ location }}') where as_of is not null
{%- endmacro %}
