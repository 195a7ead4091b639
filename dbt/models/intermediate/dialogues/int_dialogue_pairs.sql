with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

user_dialogues as (
  select *
  from {{ ref('int_user_dialogue_questions') }}
),

item_dialogues as (
  select *
  from {{ ref('int_item_dialogue_shown_items') }}
)

select
  user_dialogues.dialogue_id,
  user_dialogues.user_id,
  user_dialogues.withheld_item_id as item_id,
  unnest(user_dialogues.known_items[1:parameters.prompt_history]) as shown_id,
from user_dialogues
cross join parameters
where user_dialogues.asks
union all
select
  dialogue_id,
  user_id,
  item_id,
  shown_id,
from item_dialogues
