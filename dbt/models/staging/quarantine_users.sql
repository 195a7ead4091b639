{{ config(materialized='table') }}

with base as (
  select *
  from {{ ref('base_users') }}
),

reasons as (
  select *
  from {{ ref('quarantine_reasons') }}
),

unreadable as (
  {{ unreadable_lines('users') }}
)

{{ quarantined_rows('users') }}
