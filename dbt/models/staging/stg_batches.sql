{{ config(materialized='table') }}

with dataset as (
  select *
  from {{ source('workspace', 'dataset') }}
),

listed as (
  select from_json(content -> '$.batches', '[{"table": "VARCHAR", "batch": "VARCHAR"}]') as batches
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
from numbered
group by all
