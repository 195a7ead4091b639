{{ config(materialized='ephemeral') }}

with landed as (
  select
    text_hash,
    embedding::float[] as embedding,
    model,
    {{ artifact_version('filename') }} as version,
  from {{ source('artifacts', 'vectors') }}
),

current_encoder as (
  select coalesce(max(current.encoder), max(landed.model)) as model
  from {{ ref('stg_current_artifacts') }} as current
  left join landed on landed.version = current.version
  where current.kind = 'embeddings'
)

select
  landed.text_hash,
  landed.embedding,
  landed.model,
from landed
inner join current_encoder on current_encoder.model = landed.model
qualify row_number() over (partition by landed.text_hash order by landed.version) = 1
