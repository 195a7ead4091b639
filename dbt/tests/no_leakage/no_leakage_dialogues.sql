-- Dialogues show only what is known at `select`. Each pair of user and item in them, the pair of turn 2 included, is
-- known in that snapshot before its as_of; where the answer is No, the pair of turn 2 is not. No dialogue shows an item
-- that is held out as zero-shot or as cold.
{{ config(tags=['features', 'no_leakage']) }}

with user_dialogues as (
  select *
  from {{ ref('fct_user_dialogues') }}
),

item_dialogues as (
  select *
  from {{ ref('fct_item_dialogues') }}
),

neighbours as (
  select
    dialogue_id,
    snapshot,
    as_of,
    unnest(from_json(neighbours, '[{"user_id": "VARCHAR", "items": [{"item_id": "VARCHAR"}]}]')) as neighbour,
  from user_dialogues
),

entries as (
  select
    dialogue_id,
    snapshot,
    as_of,
    user_id,
    unnest(
      json_extract_string(history, '$[*].item_id') || json_extract_string(unmasked_history, '$[*].item_id')
    ) as item_id,
    true as expected,
  from user_dialogues
  union all
  select
    dialogue_id,
    snapshot,
    as_of,
    neighbour.user_id,
    unnest(neighbour.items).item_id,
    true,
  from neighbours
  union all
  select
    dialogue_id,
    snapshot,
    as_of,
    user_id,
    withheld_item_id,
    answer,
  from user_dialogues
  where asks
  union all
  select
    dialogue_id,
    snapshot,
    as_of,
    withheld_user_id,
    item_id,
    answer,
  from item_dialogues
  union all
  select
    dialogue_id,
    snapshot,
    as_of,
    withheld_user_id,
    unnest(json_extract_string(question, '$[*].item_id')),
    true,
  from item_dialogues
),

shown_items as (
  select
    dialogue_id,
    item_id,
  from entries
  union
  select
    dialogue_id,
    unnest(json_extract_string(neighbours, '$[*].item_id')),
  from item_dialogues
),

known as (
  select *
  from {{ ref('fct_known_interactions') }}
)

select
  entries.dialogue_id,
  entries.user_id,
  entries.item_id,
from entries
left join known
  on known.snapshot = entries.snapshot
  and known.as_of = entries.as_of
  and known.known_at < entries.as_of
  and known.user_id = entries.user_id
  and known.item_id = entries.item_id
where entries.snapshot <> 'select' or (known.item_id is not null) <> entries.expected
union all
select
  shown_items.dialogue_id,
  null as user_id,
  shown_items.item_id,
from shown_items
left join {{ ref('dim_items') }} as items on items.item_id = shown_items.item_id
where
  coalesce(items.is_zero_shot or items.is_pseudo_cold, true)
  or shown_items.item_id not in (select item_id from known where snapshot = 'select')
