with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

latest as (
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
  from latest
  group by snapshot, item_id
),

around as (
  select
    neighbours.snapshot,
    neighbours.item_id,
    list(
      {
        'item_id': cards.item_id,
        'line': cards.line,
        'score': round(neighbours.score, 4),
      }
      order by neighbours.rank
    ) as neighbours,
  from {{ ref('int_item_text_neighbours') }} as neighbours
  inner join {{ ref('int_item_cards') }} as cards on cards.item_id = neighbours.neighbour_id
  cross join parameters
  where neighbours.rank <= parameters.prompt_neighbours
  group by neighbours.snapshot, neighbours.item_id
),

told as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    items.item_id,
    coalesce(len(readers.users), 0) as n_audience,
    to_json(coalesce(readers.users, [])) as audience,
    cards.line,
    coalesce({{ prompt_text('items.text', 300) }}, '') as text,
    to_json(coalesce(around.neighbours, [])) as neighbours,
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
  sha256(concat_ws(chr(10), line, text, neighbours::varchar)) as prompt_hash,
from told
