-- All interactions that a prompt shows (of the user, of a neighbour, of an item's audience) are known in its snapshot,
-- and each text neighbour has a known interaction in it.
{{ config(tags=['features', 'no_leakage']) }}

with user_entries as (
  select
    snapshot,
    as_of,
    user_id,
    unnest(from_json(history, '[{"item_id": "VARCHAR"}]')).item_id as item_id,
  from {{ ref('fct_user_prompts') }}
),

neighbours as (
  select
    snapshot,
    as_of,
    unnest(from_json(neighbours, '[{"user_id": "VARCHAR", "items": [{"item_id": "VARCHAR"}]}]')) as neighbour,
  from {{ ref('fct_user_prompts') }}
),

neighbour_entries as (
  select
    snapshot,
    as_of,
    neighbour.user_id as user_id,
    unnest(neighbour.items).item_id as item_id,
  from neighbours
),

audience as (
  select
    snapshot,
    as_of,
    unnest(from_json(audience, '[{"user_id": "VARCHAR"}]')).user_id as user_id,
    item_id,
  from {{ ref('fct_item_prompts') }}
),

shown as (
  select * from user_entries
  union
  select * from neighbour_entries
  union
  select * from audience
),

text_neighbours as (
  select distinct
    snapshot,
    as_of,
    unnest(from_json(neighbours, '[{"item_id": "VARCHAR"}]')).item_id as item_id,
  from {{ ref('fct_item_prompts') }}
)

select shown.*
from shown
left join {{ ref('fct_known_interactions') }} as known
  on known.snapshot = shown.snapshot
  and known.as_of = shown.as_of
  and known.user_id = shown.user_id
  and known.item_id = shown.item_id
where known.item_id is null
union all
select
  text_neighbours.snapshot,
  text_neighbours.as_of,
  null as user_id,
  text_neighbours.item_id,
from text_neighbours
anti join {{ ref('fct_known_interactions') }} as known
  on known.snapshot = text_neighbours.snapshot
  and known.as_of = text_neighbours.as_of
  and known.item_id = text_neighbours.item_id
