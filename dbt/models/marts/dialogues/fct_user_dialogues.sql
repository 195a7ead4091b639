with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

dialogues as (
  select *
  from {{ ref('int_user_dialogue_questions') }}
),

dialogue_histories as (
  select *
  from {{ ref('int_user_dialogue_histories') }}
),

dialogue_neighbours as (
  select *
  from {{ ref('int_user_dialogue_neighbours') }}
),

user_histories as (
  select *
  from {{ ref('int_user_histories') }}
  where snapshot = 'select'
),

cards as (
  select *
  from {{ ref('int_item_cards') }}
),

item_status as (
  select *
  from {{ ref('int_item_status') }}
  where snapshot = 'select'
),

knn_scores as (
  select *
  from {{ ref('int_dialogue_knn_scores') }}
),

neighbours as (
  select
    dialogue_neighbours.dialogue_id,
    list(
      {{ neighbour_entry('dialogue_neighbours.neighbour_id', 'dialogue_neighbours.score', 'user_histories.items') }}
      order by dialogue_neighbours.rank
    ) as users,
  from dialogue_neighbours
  inner join user_histories on user_histories.user_id = dialogue_neighbours.neighbour_id
  where dialogue_neighbours.rank <= (select prompt_neighbours from parameters)
  group by dialogue_neighbours.dialogue_id
)

select
  dialogues.dialogue_id,
  dialogues.snapshot,
  snapshots.as_of,
  dialogues.user_id,
  dialogues.view,
  dialogues.fold,
  to_json(dialogue_histories.masked) as history,
  to_json(dialogue_histories.unmasked) as unmasked_history,
  to_json(coalesce(neighbours.users, [])) as neighbours,
  dialogues.withheld_item_id,
  cards.line as withheld_line,
  dialogues.asks,
  dialogues.answer,
  coalesce(item_status.n_interactions - dialogues.answer::int, 0)::double as popularity,
  coalesce(knn_scores.knn_score, 0)::double as knn_score,
from dialogues
inner join snapshots on snapshots.snapshot = dialogues.snapshot
inner join dialogue_histories on dialogue_histories.dialogue_id = dialogues.dialogue_id
left join cards on cards.item_id = dialogues.withheld_item_id
left join item_status on item_status.item_id = dialogues.withheld_item_id
left join knn_scores on knn_scores.dialogue_id = dialogues.dialogue_id
left join neighbours on neighbours.dialogue_id = dialogues.dialogue_id
order by dialogues.user_id, dialogues.view
