with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

users as (
  select *
  from {{ ref('dim_users') }}
),

histories as (
  select *
  from {{ ref('int_user_histories') }}
),

user_neighbours as (
  select *
  from {{ ref('int_user_neighbours') }}
  where dialogue_id = ''
),

neighbours as (
  select
    user_neighbours.snapshot,
    user_neighbours.user_id,
    list(
      {{ neighbour_entry('user_neighbours.neighbour_id', 'user_neighbours.score', 'histories.items') }}
      order by user_neighbours.rank
    ) as users,
  from user_neighbours
  inner join histories
    on histories.snapshot = user_neighbours.snapshot
    and histories.user_id = user_neighbours.neighbour_id
  where user_neighbours.rank <= (select prompt_neighbours from parameters)
  group by user_neighbours.snapshot, user_neighbours.user_id
),

described as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    users.user_id,
    coalesce(len(histories.items), 0) as n_history,
    to_json(coalesce(histories.items, [])) as history,
    to_json(coalesce(neighbours.users, [])) as neighbours,
  from users
  cross join snapshots
  left join histories
    on histories.snapshot = snapshots.snapshot
    and histories.user_id = users.user_id
  left join neighbours
    on neighbours.snapshot = snapshots.snapshot
    and neighbours.user_id = users.user_id
)

select
  *,
  sha256(concat_ws(chr(10), history::varchar, neighbours::varchar)) as prompt_hash,
from described
