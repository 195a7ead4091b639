-- Without an accepted interaction, or with all of a log to cut by time at one moment, nothing that follows staging is
-- built. `reclm build` says why.
{{ config(tags=['features']) }}

with accepted as (
  select
    count(*) as n_rows,
    min(event_ts) as earliest,
    max(event_ts) as latest,
  from {{ ref('stg_interactions') }}
)

select
  accepted.n_rows,
  accepted.earliest,
from accepted
cross join {{ ref('stg_parameters') }} as parameters
where
  accepted.n_rows = 0
  or (parameters.split_mode = 'temporal' and accepted.earliest = accepted.latest)
