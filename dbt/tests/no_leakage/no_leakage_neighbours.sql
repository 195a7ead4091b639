-- Neighbours come from the interactions of their own snapshot: each neighbour has a known interaction in it, and so has
-- each user or item that has neighbours by interactions.
{{ config(tags=['features', 'no_leakage']) }}

with pairs as (
  select
    'item' as entity,
    snapshot,
    as_of,
    unnest(case when source = 'co_occurrence' then [item_id, neighbour_id] else [neighbour_id] end) as id,
  from {{ ref('fct_item_neighbours') }}
  union all
  select
    'user' as entity,
    snapshot,
    as_of,
    unnest([user_id, neighbour_id]) as id,
  from {{ ref('fct_user_neighbours') }}
),

ids as (
  select distinct entity, snapshot, as_of, id
  from pairs
),

known as (
  select 'item' as entity, snapshot, item_id as id
  from {{ ref('fct_known_interactions') }}
  union
  select 'user' as entity, snapshot, user_id as id
  from {{ ref('fct_known_interactions') }}
)

select ids.*
from ids
left join {{ ref('int_snapshots') }} as snapshots
  on snapshots.snapshot = ids.snapshot
  and snapshots.as_of = ids.as_of
left join known
  on known.entity = ids.entity
  and known.snapshot = ids.snapshot
  and known.id = ids.id
where snapshots.snapshot is null or known.id is null
