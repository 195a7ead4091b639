{{ config(materialized='table') }}

with base as (
  select *
  from {{ ref('base_interactions') }}
),

reasons as (
  select *
  from {{ ref('quarantine_reasons') }}
)

{{ quarantined_rows('interactions') }}
