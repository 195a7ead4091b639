{# The rows of the CTE `landed` with the position of their batch: batch_number is the order of dataset.json. Reads the
   CTE `batches` (stg_batches) too. #}
{% macro with_batch_number(table_name) -%}
select
  landed.*,
  batches.batch_number,
from landed
left join batches
  on batches.table_name = '{{ table_name }}'
  and batches.batch = regexp_extract(landed.filename, '([^/\\]+)\.parquet$', 1)
{%- endmacro %}
