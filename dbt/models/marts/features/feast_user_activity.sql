{{ config(tags=['features']) }}

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
  from {{ ref('fct_user_status') }}
),

known_interactions as (
  select *
  from {{ ref('fct_known_interactions') }}
),

known_categories as (
  select
    known_interactions.snapshot,
    known_interactions.user_id,
    unnest(items.categories) as category,
  from known_interactions
  inner join items on items.item_id = known_interactions.item_id
),

category_counts as (
  select
    snapshot,
    user_id,
    count(distinct category) as n_categories,
  from known_categories
  group by snapshot, user_id
),

latest as (
  select
    snapshot,
    user_id,
    max(known_at) as last_known_at,
  from known_interactions
  group by snapshot, user_id
)

select
  status.user_id,
  snapshots.as_of,
  {{ build_time() }} as created_at,
  status.n_interactions,
  coalesce(category_counts.n_categories, 0) as n_categories,
  if(snapshots.ts_is_synthetic, null, epoch_us(latest.last_known_at)) as last_interaction_us,
  status.activity,
from status
inner join snapshots on snapshots.snapshot = status.snapshot
left join category_counts
  on category_counts.snapshot = status.snapshot
  and category_counts.user_id = status.user_id
left join latest
  on latest.snapshot = status.snapshot
  and latest.user_id = status.user_id
