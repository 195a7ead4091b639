with category_counts as (
  select
    known.snapshot,
    known.user_id,
    count(distinct category) as n_categories,
  from (
    select
      snapshot,
      user_id,
      unnest(categories) as category,
    from {{ ref('fct_known_interactions') }}
    inner join {{ ref('dim_items') }} using (item_id)
  ) as known
  group by known.snapshot, known.user_id
),

latest as (
  select
    snapshot,
    user_id,
    max(known_at) as last_known_at,
  from {{ ref('fct_known_interactions') }}
  group by snapshot, user_id
)

select
  status.user_id,
  snapshots.as_of,
  {{ build_time() }} as created_at,
  status.n_interactions,
  coalesce(category_counts.n_categories, 0) as n_categories,
  epoch(snapshots.as_of - latest.last_known_at) / 86400.0 as days_since_last,
  status.activity,
from {{ ref('fct_user_status') }} as status
inner join {{ ref('int_snapshots') }} as snapshots on snapshots.snapshot = status.snapshot
left join category_counts
  on category_counts.snapshot = status.snapshot
  and category_counts.user_id = status.user_id
left join latest
  on latest.snapshot = status.snapshot
  and latest.user_id = status.user_id
