select
  quality.version,
  quality.snapshot,
  quality.kind,
  quality.severity,
  quality.metric,
  quality.value::double as value,
  quality.n::bigint as n,
  current.version is not null as is_current,
from {{ source('artifacts', 'profile_quality') }} as quality
left join {{ ref('stg_current_artifacts') }} as current
  on current.kind = 'profiles'
  and current.version = quality.version
