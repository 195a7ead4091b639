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
from {{ ref('base_items') }}
where status = 'accepted'
