with landed_profiles as (
  select *
  from {{ source('artifacts', 'user_profiles') }}
),

users as (
  select *
  from {{ ref('dim_users') }}
),

embeddings as (
  select *
  from {{ ref('stg_embeddings') }}
),

{{ scored_profiles('user') }}
