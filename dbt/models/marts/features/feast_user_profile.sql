with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

profiles as (
  select *
  from {{ ref('fct_user_profiles') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
),

embeddings as (
  select *
  from {{ ref('stg_embeddings') }}
),

current_profiles as (
  {{ current_profiles(['user_id', 'as_of']) }}
)

select
  current_profiles.user_id,
  current_profiles.as_of,
  {{ build_time() }} as created_at,
  current_profiles.profile,
  embeddings.embedding,
  current_profiles.quality::float as quality,
  current_profiles.engine,
  current_profiles.flag,
from current_profiles
inner join embeddings on embeddings.text_hash = current_profiles.text_hash
