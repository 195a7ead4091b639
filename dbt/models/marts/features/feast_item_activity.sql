with recent as (
  select
    snapshot,
    item_id,
    count(*) filter (known_at >= as_of - interval 30 days) as n_users_recent,
  from {{ ref('fct_known_interactions') }}
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
from {{ ref('fct_item_status') }} as status
inner join {{ ref('dim_items') }} as items on items.item_id = status.item_id
inner join {{ ref('int_snapshots') }} as snapshots on snapshots.snapshot = status.snapshot
left join recent
  on recent.snapshot = status.snapshot
  and recent.item_id = status.item_id
