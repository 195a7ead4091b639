{{ config(materialized='table') }}

with landed as (
  select *
  from {{ source('landing', 'impressions') }}
),

parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

typed as (
  select
    request_id,
    user_id,
    item_id,
    try_cast(position as bigint) as position,
    try_cast(score as double) as score,
    try_cast(propensity as double) as propensity,
    try_cast(shown_at as timestamptz) as shown_at,
    model_version,
    model,
    variant,
    coalesce(arm, 'champion') as arm,
    source,
  from landed
)

select typed.*
from typed
cross join parameters
where coalesce(shown_at < known_until, true)
