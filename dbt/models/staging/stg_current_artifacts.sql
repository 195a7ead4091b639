{{ config(materialized='ephemeral') }}

with current_artifacts as (
  select *
  from {{ source('workspace', 'current_artifacts') }}
)

select
  kind,
  version,
  encoder,
from current_artifacts
