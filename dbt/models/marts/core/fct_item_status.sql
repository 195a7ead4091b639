with known as (
  select
    snapshot,
    item_id,
    count(*) as n_interactions,
  from {{ ref('fct_known_interactions') }}
  group by snapshot, item_id
)

select
  snapshots.snapshot,
  items.item_id,
  coalesce(known.n_interactions, 0) as n_interactions,
  coalesce(known.n_interactions, 0) > 0 as is_warm,
  {{ interaction_band('coalesce(known.n_interactions, 0)') }} as coldness,
from {{ ref('dim_items') }} as items
cross join {{ ref('int_snapshots') }} as snapshots
left join known
  on known.snapshot = snapshots.snapshot
  and known.item_id = items.item_id
