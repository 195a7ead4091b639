{{ config(materialized='table') }}

with base as (
  select *
  from {{ ref('base_items') }}
),

reasons as (
  select *
  from {{ ref('quarantine_reasons') }}
)

{{ quarantined_rows('items') }}
