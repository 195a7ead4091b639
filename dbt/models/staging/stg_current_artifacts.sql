{{ config(materialized='ephemeral') }}

with current_artifacts as (
  select *
  from {{ source('workspace', 'current_artifacts') }}
)

select
  kind,
  version,
  encoder,
  coalesce(position, 0) as position,
from current_artifacts
