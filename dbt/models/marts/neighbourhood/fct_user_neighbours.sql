select
  neighbours.snapshot,
  snapshots.as_of,
  neighbours.user_id,
  neighbours.neighbour_id,
  neighbours.score::double as score,
  neighbours.rank::bigint as rank,
from {{ ref('int_user_neighbours') }} as neighbours
inner join {{ ref('int_snapshots') }} as snapshots on snapshots.snapshot = neighbours.snapshot
where neighbours.dialogue_id = ''
