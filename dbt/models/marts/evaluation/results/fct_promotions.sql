with decisions as (
  select *
  from {{ source('artifacts', 'promotions') }}
)

select
  version::varchar as version,
  decided_at::timestamptz as decided_at,
  dataset::varchar as dataset,
  as_of::timestamptz as as_of,
  decision::varchar as decision,
  decided_by::varchar as decided_by,
  reason::varchar as reason,
  candidate_version::varchar as candidate_version,
  served_version::varchar as served_version,
  candidate_model::varchar as candidate_model,
  candidate_variant::varchar as candidate_variant,
  candidate_seed::bigint as candidate_seed,
  champion_version::varchar as champion_version,
  champion_model::varchar as champion_model,
  champion_variant::varchar as champion_variant,
  setting::varchar as setting,
  metric::varchar as metric,
  k::bigint as k,
  candidate_value::double as candidate_value,
  candidate_lo::double as candidate_lo,
  candidate_hi::double as candidate_hi,
  candidate_cold::double as candidate_cold,
  champion_value::double as champion_value,
  diff::double as diff,
  diff_lo::double as diff_lo,
  diff_hi::double as diff_hi,
  guards::varchar as guards,
  coalesce(candidates, '[]')::varchar as candidates,
from decisions
