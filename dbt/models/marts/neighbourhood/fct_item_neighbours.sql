{{ config(
  tags=['items'],
  materialized='incremental',
  incremental_strategy='append',
  on_schema_change='fail',
  pre_hook='{{ make_room() }}',
) }}

with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

co_occurrence as (
  select *
  from {{ ref('int_item_co_occurrence') }}
),

text_neighbours as (
  select *
  from {{ ref('int_item_text_neighbours') }}
),

cold_items as (
  select *
  from {{ ref('int_item_status') }}
  where not is_warm
),

delivered as (
  select *
  from {{ ref('stg_delivered_items') }}
),

combined as (
  select
    snapshot,
    item_id,
    neighbour_id,
    score,
    rank,
    'co_occurrence' as source,
  from co_occurrence
  union all
  select
    text_neighbours.snapshot,
    text_neighbours.item_id,
    text_neighbours.neighbour_id,
    text_neighbours.score,
    text_neighbours.rank,
    'text' as source,
  from text_neighbours
  inner join cold_items
    on cold_items.snapshot = text_neighbours.snapshot
    and cold_items.item_id = text_neighbours.item_id
)

select
  combined.snapshot,
  snapshots.as_of,
  combined.item_id,
  combined.neighbour_id,
  combined.score::double as score,
  combined.rank::bigint as rank,
  combined.source,
from combined
inner join snapshots on snapshots.snapshot = combined.snapshot
{% if is_delivery() %} semi join delivered on delivered.item_id = combined.item_id {% endif %}
