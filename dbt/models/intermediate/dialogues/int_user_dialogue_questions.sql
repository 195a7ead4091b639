with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

views as (
  select *
  from {{ ref('int_user_dialogue_views') }}
),

neighbours as (
  select *
  from {{ ref('int_user_dialogue_neighbours') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select'
),

item_status as (
  select *
  from {{ ref('int_item_status') }}
  where snapshot = 'select'
),

-- A No is about an item that only neighbours have. All neighbours count, not just those that the prompt shows:
-- otherwise an item shown with a neighbour would mean No. Of these items, the one about as popular as an item of the
-- user is taken, so that popularity says little about the answer.
negatives as (
  select
    views.dialogue_id,
    arg_min(
      theirs.item_id,
      {
        'popularity_gap': abs(round(2 * log2(candidate.n_interactions / greatest(drawn.n_interactions - 1, 1)))),
        'lot': {{ hash_text('parameters.seed', 'untouched', 'views.dialogue_id || chr(31) || theirs.item_id') }},
      }
    ) as item_id,
  from views
  cross join parameters
  inner join neighbours on neighbours.dialogue_id = views.dialogue_id
  inner join known_interactions as theirs
    on theirs.user_id = neighbours.neighbour_id
    and theirs.history_rank <= parameters.recent_items
  inner join item_status as candidate on candidate.item_id = theirs.item_id
  inner join item_status as drawn on drawn.item_id = views.drawn_item_id
  anti join known_interactions as own
    on own.user_id = views.user_id
    and own.item_id = theirs.item_id
  where not views.answer
  group by views.dialogue_id
)

-- Where neighbours have no other item there is no turn 2; turn 1 is still learned from.
select
  views.* replace (views.asks and (views.answer or negatives.item_id is not null) as asks),
  case
    when views.answer then views.drawn_item_id
    when views.asks then negatives.item_id
  end as withheld_item_id,
from views
left join negatives on negatives.dialogue_id = views.dialogue_id
