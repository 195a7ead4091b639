with users as (
  select *
  from {{ ref('dim_users') }}
),

snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
),

item_status as (
  select *
  from {{ ref('int_item_status') }}
),

densities as (
  select
    known_interactions.snapshot,
    known_interactions.user_id,
    count(*) as n_interactions,
    sum(item_status.n_interactions - 1) / count(*) as neighbourhood_density,
  from known_interactions
  inner join item_status
    on item_status.snapshot = known_interactions.snapshot
    and item_status.item_id = known_interactions.item_id
  group by known_interactions.snapshot, known_interactions.user_id
),

thirds as (
  select
    snapshot,
    quantile_disc(neighbourhood_density, 1 / 3.0) as first_third,
    quantile_disc(neighbourhood_density, 2 / 3.0) as second_third,
  from densities
  group by snapshot
)

select
  snapshots.snapshot,
  users.user_id,
  coalesce(densities.n_interactions, 0) as n_interactions,
  {{ interaction_band('coalesce(densities.n_interactions, 0)') }} as activity,
  coalesce(densities.neighbourhood_density, 0)::double as neighbourhood_density,
  case
    when densities.neighbourhood_density > thirds.second_third then 'high'
    when densities.neighbourhood_density > thirds.first_third then 'mid'
    else 'low'
  end as density_band,
from users
cross join snapshots
left join densities
  on densities.snapshot = snapshots.snapshot
  and densities.user_id = users.user_id
left join thirds on thirds.snapshot = snapshots.snapshot
