{{ config(tags=['items']) }}

with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

items as (
  select *
  from {{ ref('int_catalogue') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
),

counted as (
  select
    snapshot,
    item_id,
    count(*) as n_interactions,
  from known_interactions
  group by snapshot, item_id
)

select
  snapshots.snapshot,
  items.item_id,
  coalesce(counted.n_interactions, 0) as n_interactions,
  coalesce(counted.n_interactions, 0) > 0 as is_warm,
  {{ interaction_band('coalesce(counted.n_interactions, 0)') }} as coldness,
from items
cross join snapshots
left join counted
  on counted.snapshot = snapshots.snapshot
  and counted.item_id = items.item_id
