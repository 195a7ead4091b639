{{ config(materialized='table') }}

with base as (
  select *
  from {{ ref('base_interactions') }}
),

reasons as (
  select *
  from {{ ref('quarantine_reasons') }}
),

unreadable as (
  {{ unreadable_lines('interactions') }}
)

{{ quarantined_rows('interactions') }}
