{{ config(materialized='ephemeral') }}

select
  kind,
  version,
  encoder,
from {{ source('workspace', 'current_artifacts') }}
