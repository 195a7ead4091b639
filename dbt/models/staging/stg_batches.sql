{{ config(materialized='table') }}

with dataset as (
  select *
  from {{ source('workspace', 'dataset') }}
),

listed as (
  select
    from_json(
      content -> '$.batches', '[{"table": "VARCHAR", "batch": "VARCHAR", "before_items": "BOOLEAN"}]'
    ) as batches,
  from dataset
),

numbered as (
  select
    unnest(batches) as entry,
    generate_subscripts(batches, 1) as batch_number,
  from listed
)

select
  entry.table as table_name,
  replace(entry.batch, '.parquet', '') as batch,
  min(batch_number) as batch_number,
  coalesce(bool_or(entry.before_items), false) as before_items,
from numbered
group by all
