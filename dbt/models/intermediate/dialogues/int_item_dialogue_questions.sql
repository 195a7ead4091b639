with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

plans as (
  select *
  from {{ ref('int_item_dialogue_plans') }}
),

known_interactions as (
  select
    *,
    count(*) over (partition by user_id) as n_known,
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select'
),

held_out_users as (
  select distinct user_id
  from {{ ref('int_user_dialogue_views') }}
  where fold = 'held_out'
),

similar_items as (
  select *
  from {{ ref('int_item_dialogue_similar_items') }}
),

-- Yes: a user who has the item. No: a user who has a similar item, but not this one.
candidates as (
  select
    plans.dialogue_id,
    known_interactions.user_id,
  from plans
  inner join known_interactions on known_interactions.item_id = plans.item_id
  where plans.answer and known_interactions.n_known >= 2
  union all
  select
    plans.dialogue_id,
    known_interactions.user_id,
  from plans
  inner join similar_items on similar_items.item_id = plans.item_id
  inner join known_interactions on known_interactions.item_id = similar_items.neighbour_id
  anti join known_interactions as own
    on own.user_id = known_interactions.user_id
    and own.item_id = plans.item_id
  where not plans.answer and known_interactions.n_known >= 2
)

-- A held-out user does not appear in training.
select
  candidates.dialogue_id,
  arg_min(
    candidates.user_id,
    {{ hash_text('parameters.seed', 'person', 'candidates.dialogue_id || chr(31) || candidates.user_id') }}
  ) as withheld_user_id,
from candidates
inner join plans on plans.dialogue_id = candidates.dialogue_id
left join held_out_users on held_out_users.user_id = candidates.user_id
cross join parameters
where plans.fold = 'held_out' or held_out_users.user_id is null
group by candidates.dialogue_id
