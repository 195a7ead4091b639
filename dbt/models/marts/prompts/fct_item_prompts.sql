with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

audience as (
  select
    known.snapshot,
    known.item_id,
    known.user_id,
    row_number() over (
      partition by known.snapshot, known.item_id
      order by known.known_at desc, known.event_ts desc nulls last, known.user_id
    ) as place,
  from {{ ref('fct_known_interactions') }} as known
  qualify place <= (select prompt_history from parameters)
),

readers as (
  select
    snapshot,
    item_id,
    list({'user_id': user_id} order by place) as users,
  from audience
  group by snapshot, item_id
),

around as (
  select
    neighbours.snapshot,
    neighbours.item_id,
    list(
      {
        'item_id': cards.item_id,
        'title': cards.title,
        'categories': cards.categories,
        'score': round(neighbours.score, 4),
        'source': neighbours.source,
      }
      order by neighbours.rank
    ) as neighbours,
    list(cards.line order by neighbours.rank) as lines,
  from {{ ref('fct_item_neighbours') }} as neighbours
  inner join {{ ref('int_item_cards') }} as cards on cards.item_id = neighbours.neighbour_id
  cross join parameters
  where neighbours.rank <= parameters.prompt_neighbours
  group by neighbours.snapshot, neighbours.item_id
),

written as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    items.item_id,
    coalesce(len(readers.users), 0) as n_history,
    to_json(coalesce(readers.users, [])) as history,
    to_json(coalesce(around.neighbours, [])) as neighbours,
    to_json([
      {'role': 'system', 'content': {{ profile_instruction('the people an item is for') }}},
      {
        'role': 'user',
        'content': concat(
          'The item:', chr(10), '- ', cards.line, chr(10),
          coalesce('Its text: ' || nullif({{ prompt_text('items.text', 300) }}, '') || chr(10), ''),
          'Items close to it:', chr(10),
          coalesce(array_to_string(list_transform(around.lines, lambda line: '- ' || line), chr(10)), '(none)'), chr(10),
          'Write the profile of the people this item is for.'
        ),
      },
    ]) as messages,
  from {{ ref('dim_items') }} as items
  inner join {{ ref('int_item_cards') }} as cards on cards.item_id = items.item_id
  cross join {{ ref('int_snapshots') }} as snapshots
  left join readers
    on readers.snapshot = snapshots.snapshot
    and readers.item_id = items.item_id
  left join around
    on around.snapshot = snapshots.snapshot
    and around.item_id = items.item_id
)

select
  *,
  sha256(messages::varchar) as prompt_hash,
from written
