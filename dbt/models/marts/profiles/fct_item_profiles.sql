{{ config(tags=['item_profiles']) }}

with landed_profiles as (
  select *
  from {{ source('artifacts', 'item_profiles') }}
),

items as (
  select *
  from {{ ref('dim_items') }}
),

embeddings as (
  select *
  from {{ ref('stg_embeddings') }}
),

{{ scored_profiles('item') }}
