with plans as (
  select *
  from {{ ref('int_item_dialogue_plans') }}
),

questions as (
  select *
  from {{ ref('int_item_dialogue_questions') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select'
)

select
  questions.dialogue_id,
  questions.withheld_user_id as user_id,
  plans.item_id,
  known_interactions.item_id as shown_id,
  known_interactions.history_rank,
from questions
inner join plans on plans.dialogue_id = questions.dialogue_id
inner join known_interactions
  on known_interactions.user_id = questions.withheld_user_id
  and known_interactions.item_id <> plans.item_id
qualify row_number() over (partition by questions.dialogue_id order by known_interactions.history_rank) <= 3
