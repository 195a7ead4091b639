{{ config(tags=['items'], materialized='table') }}

with parameters as (
  select *
  from {{ source('workspace', 'parameters') }}
)

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
  event_weights,
  answer_days,
  timestamp_format,
  time_zone,
  try_cast(nullif(as_of, '') as timestamptz) as known_until,
from parameters
