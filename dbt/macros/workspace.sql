{# The artifact version a row is from: the folder of its file. #}
{% macro artifact_version(filename) -%}
  regexp_extract({{ filename }}, '([^/\\]+)[/\\][^/\\]+$', 1)
{%- endmacro %}

{# DuckDB's threads, from the same variable as the setting runtime.threads; 0 leaves DuckDB's own choice. #}
{% macro use_threads() -%}
  {%- set threads = env_var('RECLM_RUNTIME__THREADS', '0') | int -%}
  {%- if threads > 0 -%} set threads = {{ threads }} {%- else -%} select 1 {%- endif -%}
{%- endmacro %}
