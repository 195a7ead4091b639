with measured as (
  select
    known.snapshot,
    known.user_id,
    count(*) as n_interactions,
    sum(items.n_interactions - 1) / count(*) as neighbourhood_density,
  from {{ ref('fct_known_interactions') }} as known
  inner join {{ ref('fct_item_status') }} as items
    on items.snapshot = known.snapshot
    and items.item_id = known.item_id
  group by known.snapshot, known.user_id
),

thirds as (
  select
    snapshot,
    quantile_disc(neighbourhood_density, 1 / 3.0) as first_third,
    quantile_disc(neighbourhood_density, 2 / 3.0) as second_third,
  from measured
  group by snapshot
)

select
  snapshots.snapshot,
  users.user_id,
  coalesce(measured.n_interactions, 0) as n_interactions,
  {{ interaction_band('coalesce(measured.n_interactions, 0)') }} as activity,
  coalesce(measured.neighbourhood_density, 0)::double as neighbourhood_density,
  case
    when measured.neighbourhood_density > thirds.second_third then 'high'
    when measured.neighbourhood_density > thirds.first_third then 'mid'
    else 'low'
  end as density_band,
from {{ ref('dim_users') }} as users
cross join {{ ref('int_snapshots') }} as snapshots
left join measured
  on measured.snapshot = snapshots.snapshot
  and measured.user_id = users.user_id
left join thirds on thirds.snapshot = snapshots.snapshot
