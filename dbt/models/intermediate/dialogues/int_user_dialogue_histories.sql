with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

dialogues as (
  select *
  from {{ ref('int_user_dialogue_questions') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select'
),

cards as (
  select *
  from {{ ref('int_item_cards') }}
),

shown as (
  select
    dialogues.dialogue_id,
    unnest(dialogues.known_items[1:parameters.prompt_history]) as item_id,
    false as is_withheld,
  from dialogues
  cross join parameters
  union all
  select
    dialogue_id,
    withheld_item_id,
    true,
  from dialogues
  where answer
),

positioned as (
  select
    shown.dialogue_id,
    shown.is_withheld,
    {'item_id': cards.item_id, 'line': cards.line} as item,
    case
      when shown.is_withheld then known_interactions.prompt_rank
      else list_position(dialogues.known_items, shown.item_id)
    end as position,
  from shown
  inner join dialogues on dialogues.dialogue_id = shown.dialogue_id
  inner join known_interactions
    on known_interactions.user_id = dialogues.user_id
    and known_interactions.item_id = shown.item_id
  inner join cards on cards.item_id = shown.item_id
)

select
  dialogue_id,
  list(item order by position) filter (not is_withheld) as masked,
  list(item order by position, not is_withheld) as unmasked,
from positioned
group by dialogue_id
