with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

shown as (
  select
    known.snapshot,
    known.user_id,
    list({'item_id': cards.item_id, 'title': cards.title, 'categories': cards.categories} order by known.history_rank) as items,
    list(cards.line order by known.history_rank) as lines,
  from {{ ref('fct_known_interactions') }} as known
  inner join {{ ref('int_item_cards') }} as cards on cards.item_id = known.item_id
  cross join parameters
  where known.history_rank <= parameters.prompt_history
  group by known.snapshot, known.user_id
),

around as (
  select
    neighbours.snapshot,
    neighbours.user_id,
    list({'user_id': shown.user_id, 'score': round(neighbours.score, 4), 'items': shown.items[1:3]} order by neighbours.rank) as neighbours,
    list(array_to_string(shown.lines[1:3], ' | ') order by neighbours.rank) as lines,
  from {{ ref('fct_user_neighbours') }} as neighbours
  inner join shown
    on shown.snapshot = neighbours.snapshot
    and shown.user_id = neighbours.neighbour_id
  cross join parameters
  where neighbours.rank <= parameters.prompt_neighbours
  group by neighbours.snapshot, neighbours.user_id
),

written as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    users.user_id,
    coalesce(len(shown.items), 0) as n_history,
    to_json(coalesce(shown.items, [])) as history,
    to_json(coalesce(around.neighbours, [])) as neighbours,
    to_json([
      {'role': 'system', 'content': {{ profile_instruction('the user') }}},
      {
        'role': 'user',
        'content': concat(
          'Recent items of the user:', chr(10),
          coalesce(array_to_string(list_transform(shown.lines, lambda line: '- ' || line), chr(10)), '(none)'), chr(10),
          'Recent items of the nearest other users:', chr(10),
          coalesce(array_to_string(list_transform(around.lines, lambda line: '- ' || line), chr(10)), '(none)'), chr(10),
          'Write the profile of this user.'
        ),
      },
    ]) as messages,
  from {{ ref('dim_users') }} as users
  cross join {{ ref('int_snapshots') }} as snapshots
  left join shown
    on shown.snapshot = snapshots.snapshot
    and shown.user_id = users.user_id
  left join around
    on around.snapshot = snapshots.snapshot
    and around.user_id = users.user_id
)

select
  *,
  sha256(messages::varchar) as prompt_hash,
from written
