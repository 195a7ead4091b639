{{ config(tags=['items'], materialized='table') }}

with base as (
  select *
  from {{ ref('base_items') }}
),

reasons as (
  select *
  from {{ ref('quarantine_reasons') }}
),

unreadable as (
  {{ unreadable_lines('items') }}
)

{{ quarantined_rows('items') }}
