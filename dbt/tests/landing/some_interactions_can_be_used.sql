-- Without an accepted interaction nothing that follows staging is built. `reclm build` says why there is none.
{{ config(tags=['features']) }}

with accepted as (
  select count(*) as n_rows
  from {{ ref('stg_interactions') }}
)

select n_rows
from accepted
where n_rows = 0
