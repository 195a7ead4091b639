with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

views as (
  select *
  from {{ ref('int_dialogue_views') }}
),

known as (
  select
    user_id,
    item_id,
    history_rank,
    prompt_rank,
  from {{ ref('fct_known_interactions') }}
  where snapshot = 'select'
),

item_status as (
  select
    item_id,
    n_interactions,
  from {{ ref('fct_item_status') }}
  where snapshot = 'select'
),

held_out as (
  select distinct user_id
  from views
  where fold = 'held_out'
),

-- Training shows nobody who is held out, not as a neighbour either.
near as (
  select
    views.dialogue_id,
    neighbours.neighbour_id,
    neighbours.score,
    row_number() over (partition by views.dialogue_id order by neighbours.rank) as rank,
  from views
  inner join {{ ref('int_user_neighbours') }} as neighbours
    on neighbours.snapshot = views.snapshot
    and neighbours.user_id = views.user_id
    and neighbours.dialogue_id = case when views.is_folded then views.dialogue_id else '' end
  left join held_out on held_out.user_id = neighbours.neighbour_id
  where views.fold = 'held_out' or held_out.user_id is null
),

around as (
  select
    near.dialogue_id,
    list({{ neighbour_entry('near.neighbour_id', 'near.score', 'histories.items') }} order by near.rank) as neighbours,
  from near
  inner join {{ ref('int_user_histories') }} as histories
    on histories.snapshot = 'select'
    and histories.user_id = near.neighbour_id
  cross join parameters
  where near.rank <= parameters.prompt_neighbours
  group by near.dialogue_id
),

-- What only neighbours touched, all kept ones and not just those shown: else being shown by a neighbour would mean No.
-- Of these the item about as popular as one the user did touch, so that popularity says little about the answer.
untouched as (
  select
    views.dialogue_id,
    arg_min(
      theirs.item_id,
      {
        'apart': abs(round(2 * log2(candidate.n_interactions / greatest(drawn.n_interactions - 1, 1)))),
        'lot': {{ hash_text('parameters.seed', 'untouched', 'views.dialogue_id || chr(31) || theirs.item_id') }},
      }
    ) as item_id,
  from views
  cross join parameters
  inner join near on near.dialogue_id = views.dialogue_id
  inner join known as theirs
    on theirs.user_id = near.neighbour_id
    and theirs.history_rank <= parameters.recent_items
  inner join item_status as candidate on candidate.item_id = theirs.item_id
  inner join item_status as drawn on drawn.item_id = views.drawn_item_id
  anti join known as own
    on own.user_id = views.user_id
    and own.item_id = theirs.item_id
  where not views.answer
  group by views.dialogue_id
),

-- Where neighbours touched nothing else there is nothing to ask: turn 1 stays, for it teaches all the same.
dialogues as (
  select
    views.* replace (views.asks and (views.answer or untouched.item_id is not null) as asks),
    case
      when views.answer then views.drawn_item_id
      when views.asks then untouched.item_id
    end as withheld_item_id,
  from views
  left join untouched on untouched.dialogue_id = views.dialogue_id
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

placed as (
  select
    shown.dialogue_id,
    shown.is_withheld,
    {'item_id': cards.item_id, 'line': cards.line} as item,
    case when shown.is_withheld then known.prompt_rank else list_position(dialogues.known_items, shown.item_id) end as place,
  from shown
  inner join dialogues on dialogues.dialogue_id = shown.dialogue_id
  inner join known
    on known.user_id = dialogues.user_id
    and known.item_id = shown.item_id
  inner join {{ ref('int_item_cards') }} as cards on cards.item_id = shown.item_id
),

histories as (
  select
    dialogue_id,
    list(item order by place) filter (not is_withheld) as masked,
    list(item order by place, not is_withheld) as unmasked,
  from placed
  group by dialogue_id
),

asked as (
  select
    dialogues.dialogue_id,
    dialogues.user_id,
    dialogues.withheld_item_id as item_id,
    shown.item_id as shown_id,
  from dialogues
  inner join shown
    on shown.dialogue_id = dialogues.dialogue_id
    and not shown.is_withheld
  where dialogues.asks
),

{{ knn_scores() }}

select
  dialogues.dialogue_id,
  dialogues.snapshot,
  snapshots.as_of,
  dialogues.user_id,
  dialogues.view,
  dialogues.fold,
  to_json(histories.masked) as history,
  to_json(histories.unmasked) as unmasked_history,
  to_json(coalesce(around.neighbours, [])) as neighbours,
  dialogues.withheld_item_id,
  cards.line as withheld_line,
  dialogues.asks,
  dialogues.answer,
  coalesce(item_status.n_interactions - dialogues.answer::int, 0)::double as popularity,
  coalesce(knn_scores.knn_score, 0)::double as knn_score,
from dialogues
inner join {{ ref('int_snapshots') }} as snapshots on snapshots.snapshot = dialogues.snapshot
inner join histories on histories.dialogue_id = dialogues.dialogue_id
left join {{ ref('int_item_cards') }} as cards on cards.item_id = dialogues.withheld_item_id
left join item_status on item_status.item_id = dialogues.withheld_item_id
left join knn_scores on knn_scores.dialogue_id = dialogues.dialogue_id
left join around on around.dialogue_id = dialogues.dialogue_id
order by dialogues.user_id, dialogues.view
