with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

plans as (
  select *
  from {{ ref('int_user_dialogue_plans') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select'
),

items as (
  select *
  from {{ ref('int_catalogue') }}
),

drawn as (
  select
    plans.*,
    known_interactions.item_id,
    known_interactions.history_rank,
    items.categories,
    row_number() over lots as draw,
    first_value(known_interactions.item_id) over lots as drawn_item_id,
  from plans
  cross join parameters
  inner join known_interactions on known_interactions.user_id = plans.user_id
  inner join items on items.item_id = known_interactions.item_id
  window lots as (
    partition by plans.dialogue_id
    order by
      {{ hash_text('parameters.seed', 'withheld', 'plans.dialogue_id || chr(31) || known_interactions.item_id') }}
  )
),

-- The order in which a prompt shows items is computed from the items that the dialogue may show. If the withheld item
-- took part in it, the order would give the answer away.
shown as (
  select *
  from drawn
  where
    case
      when view > 0 then draw between 2 and n_if_sparse + 1
      else not answer or draw > 1
    end
),

{{ prompt_ranks('shown', ['dialogue_id']) }},

collected as (
  select
    dialogue_id,
    user_id,
    view,
    fold,
    asks,
    answer,
    drawn_item_id,
    list(item_id order by prompt_rank) as known_items,
  from prompt_ranked
  group by all
),

-- Users with few items often have the same ones. A list of items that dialogues of both folds would show stays in the
-- fold that shows it more often: no held-out dialogue is then trained on, and as few dialogues as possible are lost.
compared as (
  select
    collected.*,
    avg((fold = 'held_out')::int) over (
      partition by list_sort(known_items[1:parameters.prompt_history])
    ) as held_out_share,
  from collected
  cross join parameters
)

select
  dialogue_id,
  'select' as snapshot,
  user_id,
  view,
  fold,
  asks,
  answer,
  drawn_item_id,
  known_items,
  view > 0 or answer as is_folded,
from compared
where (fold = 'held_out') = (held_out_share >= 0.5)
