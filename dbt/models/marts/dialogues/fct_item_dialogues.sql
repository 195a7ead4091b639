with plans as (
  select *
  from {{ ref('int_item_dialogue_plans') }}
),

questions as (
  select *
  from {{ ref('int_item_dialogue_questions') }}
),

shown_items as (
  select *
  from {{ ref('int_item_dialogue_shown_items') }}
),

cards as (
  select *
  from {{ ref('int_item_cards') }}
),

prompts as (
  select *
  from {{ ref('fct_item_prompts') }}
),

knn_scores as (
  select *
  from {{ ref('int_dialogue_knn_scores') }}
),

histories as (
  select
    shown_items.dialogue_id,
    list({'item_id': cards.item_id, 'line': cards.line} order by shown_items.history_rank) as items,
  from shown_items
  inner join cards on cards.item_id = shown_items.shown_id
  group by shown_items.dialogue_id
)

select
  plans.dialogue_id,
  plans.snapshot,
  prompts.as_of,
  plans.item_id,
  plans.view,
  plans.fold,
  prompts.line,
  prompts.text,
  prompts.neighbours,
  questions.withheld_user_id,
  to_json(histories.items) as question,
  plans.answer,
  (plans.n_interactions - plans.answer::int)::double as popularity,
  knn_scores.knn_score::double as knn_score,
from plans
inner join prompts
  on prompts.snapshot = plans.snapshot
  and prompts.item_id = plans.item_id
inner join questions on questions.dialogue_id = plans.dialogue_id
inner join histories on histories.dialogue_id = plans.dialogue_id
inner join knn_scores on knn_scores.dialogue_id = plans.dialogue_id
order by plans.item_id
