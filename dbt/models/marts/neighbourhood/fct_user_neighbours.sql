with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

user_neighbours as (
  select *
  from {{ ref('int_user_neighbours') }}
  where dialogue_id = ''
)

select
  user_neighbours.snapshot,
  snapshots.as_of,
  user_neighbours.user_id,
  user_neighbours.neighbour_id,
  user_neighbours.score::double as score,
  user_neighbours.rank::bigint as rank,
from user_neighbours
inner join snapshots on snapshots.snapshot = user_neighbours.snapshot
