{{ config(tags=['features', 'items']) }}

with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

items as (
  select *
  from {{ ref('dim_items') }}
),

status as (
  select *
  from {{ ref('fct_item_status') }}
),

known_interactions as (
  select *
  from {{ ref('fct_known_interactions') }}
),

recent as (
  select
    snapshot,
    item_id,
    count(*) filter (known_at >= as_of - interval 30 days) as n_users_recent,
  from known_interactions
  group by snapshot, item_id
)

select
  status.item_id,
  snapshots.as_of,
  {{ build_time() }} as created_at,
  status.n_interactions,
  coalesce(recent.n_users_recent, 0) as n_users_recent,
  row_number() over (
    partition by status.snapshot
    order by status.n_interactions desc, items.item_index
  ) as popularity_rank,
  status.coldness,
from status
inner join items on items.item_id = status.item_id
inner join snapshots on snapshots.snapshot = status.snapshot
left join recent
  on recent.snapshot = status.snapshot
  and recent.item_id = status.item_id
