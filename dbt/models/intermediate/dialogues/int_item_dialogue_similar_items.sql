{{ config(tags=['items']) }}

with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

text_neighbours as (
  select
    item_id,
    neighbour_id,
    rank,
  from {{ ref('int_item_text_neighbours') }}
  where snapshot = 'select'
),

co_occurring as (
  select
    item_id,
    neighbour_id,
    rank,
  from {{ ref('int_item_co_occurrence') }}
  where snapshot = 'select'
),

-- An item without text neighbours takes the items that share its users instead; otherwise its answers would all be Yes.
similar_items as (
  select *
  from text_neighbours
  union all
  select co_occurring.*
  from co_occurring
  anti join text_neighbours on text_neighbours.item_id = co_occurring.item_id
)

select
  similar_items.item_id,
  similar_items.neighbour_id,
from similar_items
cross join parameters
where similar_items.rank <= greatest(parameters.prompt_neighbours, 1)
