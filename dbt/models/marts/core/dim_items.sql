{{ config(tags=['items']) }}

with items as (
  select *
  from {{ ref('int_catalogue') }}
)

select
  item_id,
  item_index,
  title,
  text,
  categories,
  full_text,
  created_ts,
  first_seen_at,
  is_zero_shot,
  is_pseudo_cold,
  full_shot_candidate,
from items
order by item_index
