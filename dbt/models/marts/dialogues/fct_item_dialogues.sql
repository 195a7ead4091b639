with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

known as (
  select
    user_id,
    item_id,
    history_rank,
    count(*) over (partition by user_id) as n_known,
  from {{ ref('fct_known_interactions') }}
  where snapshot = 'select'
),

entities as (
  select
    prompts.*,
    status.n_interactions,
    concat('item:', prompts.item_id, ':0') as dialogue_id,
    {{ hash_unit('parameters.seed', 'answer', "concat('item:', prompts.item_id, ':0')") }} < 0.5 as answer,
    {{ hash_unit('parameters.seed', 'fold', "prompts.line || chr(31) || prompts.text") }} < 0.1 as is_held_out,
  from {{ ref('fct_item_prompts') }} as prompts
  inner join {{ ref('fct_item_status') }} as status
    on status.snapshot = prompts.snapshot
    and status.item_id = prompts.item_id
  cross join parameters
  where prompts.snapshot = 'select' and status.n_interactions >= 3
),

held_out_users as (
  select distinct user_id
  from {{ ref('int_dialogue_views') }}
  where fold = 'held_out'
),

text_neighbours as (
  select
    item_id,
    neighbour_id,
  from {{ ref('int_item_text_neighbours') }}
  where snapshot = 'select' and rank <= (select greatest(prompt_neighbours, 1) from parameters)
),

-- An item whose text resembles no other stands beside those it shares readers with, lest all its answers be Yes.
resembling as (
  select *
  from text_neighbours
  union all
  select
    shared.item_id,
    shared.neighbour_id,
  from {{ ref('fct_item_neighbours') }} as shared
  anti join text_neighbours on text_neighbours.item_id = shared.item_id
  where
    shared.snapshot = 'select'
    and shared.source = 'co_occurrence'
    and shared.rank <= (select greatest(prompt_neighbours, 1) from parameters)
),

-- Yes: somebody who picked the item. No: somebody who picked what it resembles, but not the item. Nobody who is held out is
-- asked about in training.
candidates as (
  select
    entities.dialogue_id,
    known.user_id,
  from entities
  inner join known on known.item_id = entities.item_id
  where entities.answer and known.n_known >= 2
  union all
  select
    entities.dialogue_id,
    known.user_id,
  from entities
  inner join resembling on resembling.item_id = entities.item_id
  inner join known on known.item_id = resembling.neighbour_id
  anti join known as own
    on own.user_id = known.user_id
    and own.item_id = entities.item_id
  where not entities.answer and known.n_known >= 2
),

persons as (
  select
    candidates.dialogue_id,
    arg_min(
      candidates.user_id,
      {{ hash_text('parameters.seed', 'person', 'candidates.dialogue_id || chr(31) || candidates.user_id') }}
    ) as user_id,
  from candidates
  inner join entities on entities.dialogue_id = candidates.dialogue_id
  left join held_out_users on held_out_users.user_id = candidates.user_id
  cross join parameters
  where entities.is_held_out or held_out_users.user_id is null
  group by candidates.dialogue_id
),

asked as (
  select
    persons.dialogue_id,
    persons.user_id,
    entities.item_id,
    known.item_id as shown_id,
    known.history_rank,
  from persons
  inner join entities on entities.dialogue_id = persons.dialogue_id
  inner join known
    on known.user_id = persons.user_id
    and known.item_id <> entities.item_id
  qualify row_number() over (partition by persons.dialogue_id order by known.history_rank) <= 3
),

questions as (
  select
    asked.dialogue_id,
    list({'item_id': cards.item_id, 'line': cards.line} order by asked.history_rank) as items,
  from asked
  inner join {{ ref('int_item_cards') }} as cards on cards.item_id = asked.shown_id
  group by asked.dialogue_id
),

{{ knn_scores() }}

select
  entities.dialogue_id,
  entities.snapshot,
  entities.as_of,
  entities.item_id,
  0::bigint as view,
  case when entities.is_held_out then 'held_out' else 'train' end as fold,
  entities.line,
  entities.text,
  entities.neighbours,
  persons.user_id as withheld_user_id,
  to_json(questions.items) as question,
  entities.answer,
  (entities.n_interactions - entities.answer::int)::double as popularity,
  knn_scores.knn_score::double as knn_score,
from entities
inner join persons on persons.dialogue_id = entities.dialogue_id
inner join questions on questions.dialogue_id = entities.dialogue_id
inner join knn_scores on knn_scores.dialogue_id = entities.dialogue_id
order by entities.item_id
