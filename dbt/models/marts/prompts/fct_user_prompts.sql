with shown as (
  select *
  from {{ ref('int_user_histories') }}
),

around as (
  select
    neighbours.snapshot,
    neighbours.user_id,
    list({{ neighbour_entry('neighbours.neighbour_id', 'neighbours.score', 'shown.items') }} order by neighbours.rank) as neighbours,
  from {{ ref('fct_user_neighbours') }} as neighbours
  inner join shown
    on shown.snapshot = neighbours.snapshot
    and shown.user_id = neighbours.neighbour_id
  cross join {{ ref('stg_parameters') }} as parameters
  where neighbours.rank <= parameters.prompt_neighbours
  group by neighbours.snapshot, neighbours.user_id
),

told as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    users.user_id,
    coalesce(len(shown.items), 0) as n_history,
    to_json(coalesce(shown.items, [])) as history,
    to_json(coalesce(around.neighbours, [])) as neighbours,
  from {{ ref('dim_users') }} as users
  cross join {{ ref('int_snapshots') }} as snapshots
  left join shown
    on shown.snapshot = snapshots.snapshot
    and shown.user_id = users.user_id
  left join around
    on around.snapshot = snapshots.snapshot
    and around.user_id = users.user_id
)

select
  *,
  sha256(concat_ws(chr(10), history::varchar, neighbours::varchar)) as prompt_hash,
from told
