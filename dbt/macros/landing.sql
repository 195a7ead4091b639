{# Rows of one landing table with the order they came in: batch_number (dataset.json's order), then source_row. #}
{% macro landed(table_name) -%}
  select
    landed.*,
    coalesce(batches.batch_number, 1000000) as batch_number,
  from {{ source('landing', table_name) }} as landed
  left join {{ ref('stg_batches') }} as batches
    on batches.table_name = '{{ table_name }}'
    and batches.batch = regexp_extract(landed.filename, '([^/\\]+)\.parquet$', 1)
{%- endmacro %}
