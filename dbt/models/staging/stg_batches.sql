{{ config(tags=['items'], materialized='table') }}

with batches as (
  select *
  from {{ source('workspace', 'batches') }}
)

select
  table_name,
  batch,
  batch_number,
  before_items,
from batches
