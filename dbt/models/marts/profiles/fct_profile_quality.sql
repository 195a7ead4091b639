{{ config(tags=['item_profiles']) }}

with quality as (
  select *
  from {{ source('artifacts', 'profile_quality') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
  where kind = 'profiles' and position = 0
)

select
  quality.version,
  quality.snapshot,
  quality.kind,
  quality.severity,
  quality.metric,
  quality.value::double as value,
  quality.n::bigint as n,
  current_artifacts.version is not null as is_current,
from quality
left join current_artifacts on current_artifacts.version = quality.version
