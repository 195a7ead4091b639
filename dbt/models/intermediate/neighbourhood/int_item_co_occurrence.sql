with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

items as (
  select *
  from {{ ref('int_catalogue') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
),

recent as (
  select
    known_interactions.snapshot,
    known_interactions.user_id,
    items.item_index,
  from known_interactions
  inner join items on items.item_id = known_interactions.item_id
  cross join parameters
  where known_interactions.history_rank <= parameters.recent_items
),

item_counts as (
  select
    snapshot,
    item_index,
    count(*) as n_users,
  from recent
  group by snapshot, item_index
),

pairs as (
  select
    own.snapshot,
    own.item_index,
    other.item_index as other_index,
    count(*) as n_users,
  from recent as own
  inner join recent as other
    on other.snapshot = own.snapshot
    and other.user_id = own.user_id
    and other.item_index > own.item_index
  group by all
),

both_ways as (
  select
    snapshot,
    item_index,
    other_index,
    n_users,
  from pairs
  union all
  select
    snapshot,
    other_index,
    item_index,
    n_users,
  from pairs
),

scored as (
  select
    both_ways.snapshot,
    both_ways.item_index,
    both_ways.other_index,
    both_ways.n_users / sqrt(own.n_users * other.n_users) as score,
    row_number() over (
      partition by both_ways.snapshot, both_ways.item_index
      order by both_ways.n_users / sqrt(own.n_users * other.n_users) desc, both_ways.other_index
    ) as rank,
  from both_ways
  inner join item_counts as own
    on own.snapshot = both_ways.snapshot
    and own.item_index = both_ways.item_index
  inner join item_counts as other
    on other.snapshot = both_ways.snapshot
    and other.item_index = both_ways.other_index
  qualify rank <= (select neighbours from parameters)
)

select
  scored.snapshot,
  items.item_id,
  others.item_id as neighbour_id,
  scored.score,
  scored.rank,
from scored
inner join items on items.item_index = scored.item_index
inner join items as others on others.item_index = scored.other_index
