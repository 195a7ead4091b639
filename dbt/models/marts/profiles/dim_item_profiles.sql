{{ config(tags=['item_profiles']) }}

with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

profiles as (
  select *
  from {{ ref('fct_item_profiles') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
)

{{ current_profiles(['item_id']) }}
