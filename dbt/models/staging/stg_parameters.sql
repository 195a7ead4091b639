{{ config(materialized='table') }}

select
  dataset,
  regime,
  split_mode,
  has_event_ts,
  seed,
  train_share,
  valid_share,
  zero_shot_share,
  pseudo_cold_share,
  neighbours,
  recent_items,
  prompt_history,
  prompt_neighbours,
  max_text_length,
  sparse_views,
from {{ source('workspace', 'parameters') }}
