{{ config(tags=['items']) }}

with status as (
  select *
  from {{ ref('int_item_status') }}
)

select
  snapshot,
  item_id,
  n_interactions,
  is_warm,
  coldness,
from status
