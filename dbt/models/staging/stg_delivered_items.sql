{{ config(tags=['items'], materialized='table') }}

with delivered as (
  select *
  from {{ source('workspace', 'delivered_items') }}
)

select item_id
from delivered
