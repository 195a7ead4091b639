{{ config(materialized='ephemeral') }}

with vectors as (
  select *
  from {{ source('artifacts', 'vectors') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
),

typed as (
  select
    text_hash,
    embedding::float[] as embedding,
    model,
    {{ artifact_version('filename') }} as version,
  from vectors
),

current_encoder as (
  select coalesce(max(current_artifacts.encoder), max(typed.model)) as model
  from current_artifacts
  left join typed on typed.version = current_artifacts.version
  where current_artifacts.kind = 'embeddings'
)

select
  typed.text_hash,
  typed.embedding,
  typed.model,
from typed
inner join current_encoder on current_encoder.model = typed.model
qualify row_number() over (partition by typed.text_hash order by typed.version) = 1
