{{ config(
  tags=['items'],
  materialized='incremental',
  incremental_strategy='append',
  on_schema_change='fail',
  pre_hook='{{ make_room() }}',
) }}

with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

cards as (
  select *
  from {{ ref('int_item_cards') }}
),

audiences as (
  select *
  from {{ ref('int_item_audiences') }}
),

text_neighbours as (
  select *
  from {{ ref('int_item_text_neighbours') }}
),

delivered as (
  select *
  from {{ ref('stg_delivered_items') }}
),

own as (
  select cards.*
  from cards
  {% if is_delivery() %} semi join delivered on delivered.item_id = cards.item_id {% endif %}
),

neighbours as (
  select
    text_neighbours.snapshot,
    text_neighbours.item_id,
    list(
      {
        'item_id': cards.item_id,
        'line': cards.line,
        'score': round(text_neighbours.score, 4),
      }
      order by text_neighbours.rank
    ) as items,
  from text_neighbours
  inner join cards on cards.item_id = text_neighbours.neighbour_id
  {% if is_delivery() %} semi join delivered on delivered.item_id = text_neighbours.item_id {% endif %}
  where text_neighbours.rank <= (select prompt_neighbours from parameters)
  group by text_neighbours.snapshot, text_neighbours.item_id
),

described as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    own.item_id,
    coalesce(len(audiences.users), 0) as n_audience,
    to_json(coalesce(audiences.users, [])) as audience,
    own.line,
    own.text,
    to_json(coalesce(neighbours.items, [])) as neighbours,
  from own
  cross join snapshots
  left join audiences
    on audiences.snapshot = snapshots.snapshot
    and audiences.item_id = own.item_id
  left join neighbours
    on neighbours.snapshot = snapshots.snapshot
    and neighbours.item_id = own.item_id
)

select
  *,
  sha256(concat_ws(chr(10), line, text, neighbours::varchar)) as prompt_hash,
from described
