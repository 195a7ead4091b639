{{ config(tags=['items']) }}

with base as (
  select *
  from {{ ref('base_items') }}
)

select
  item_id,
  title,
  text,
  categories,
  created_ts,
  zero_shot,
  full_shot_candidate,
  first_landed,
  source_file,
  source_row,
from base
where status = 'accepted'
