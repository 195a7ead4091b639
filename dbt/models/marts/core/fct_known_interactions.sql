with known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
)

select
  snapshot,
  as_of,
  user_id,
  item_id,
  event_ts,
  known_at,
  weight,
  recency_rank,
  history_rank,
  prompt_rank,
from known_interactions
