-- All known interactions lie before the cut-off of their snapshot, and each row has the true known_at and as_of.
{{ config(tags=['features', 'no_leakage']) }}

select known.*
from {{ ref('fct_known_interactions') }} as known
left join {{ ref('int_snapshots') }} as snapshots on snapshots.snapshot = known.snapshot
left join {{ ref('int_interactions') }} as interactions
  on interactions.user_id = known.user_id
  and interactions.item_id = known.item_id
where
  snapshots.as_of is distinct from known.as_of
  or interactions.known_at is distinct from known.known_at
  or coalesce(known.known_at >= known.as_of, true)
