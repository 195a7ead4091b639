{{ config(materialized='table') }}

with base as (
  select *
  from {{ ref('base_users') }}
),

reasons as (
  select *
  from {{ ref('quarantine_reasons') }}
),

batches as (
  select *
  from {{ ref('stg_batches') }}
),

rejected as (
  select *
  from {{ source('landing', 'rejected') }}
),

unreadable as (
  {{ unreadable_lines('users') }}
)

{{ quarantined_rows('users') }}
