with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

items as (
  select *
  from {{ ref('int_catalogue') }}
),

interactions as (
  select *
  from {{ ref('int_interactions') }}
),

likes as (
  select user_id, item_id, event_ts
  from {{ ref('stg_interactions') }}
),

dislikes as (
  select user_id, item_id, event_ts
  from {{ ref('stg_feedback') }}
  where weight < 0
),

-- The newest event of a user and item counts: what was given back or rated low last is no like. A like without a time
-- is older than any dislike with one.
taken_back as (
  select
    snapshots.snapshot,
    dislikes.user_id,
    dislikes.item_id,
  from dislikes
  inner join snapshots
    on snapshots.snapshot = 'serve'
    or (not snapshots.ts_is_synthetic and dislikes.event_ts < snapshots.as_of)
  inner join likes
    on likes.user_id = dislikes.user_id
    and likes.item_id = dislikes.item_id
    and (snapshots.snapshot = 'serve' or likes.event_ts < snapshots.as_of)
  group by snapshots.snapshot, dislikes.user_id, dislikes.item_id
  having max(dislikes.event_ts) > coalesce(max(likes.event_ts), timestamptz '-infinity')
),

visible as (
  select
    snapshots.snapshot,
    snapshots.as_of,
    interactions.user_id,
    interactions.item_id,
    interactions.event_ts,
    interactions.known_at,
    interactions.weight,
    items.item_index,
    items.categories,
    parameters.seed,
  from interactions
  inner join items on items.item_id = interactions.item_id
  cross join parameters
  inner join snapshots on interactions.known_at < snapshots.as_of
  anti join taken_back
    on taken_back.snapshot = snapshots.snapshot
    and taken_back.user_id = interactions.user_id
    and taken_back.item_id = interactions.item_id
  where
    snapshots.snapshot = 'serve'
    or (
      interactions.split in ('train', 'valid')
      and (parameters.regime = 'dense' or interactions.in_sparse_train)
      and not items.is_zero_shot
      and not (snapshots.snapshot = 'select' and items.is_pseudo_cold)
    )
),

ranked as (
  select
    *,
    row_number() over (
      partition by snapshot, user_id
      order by event_ts desc nulls last, known_at desc, item_index
    ) as recency_rank,
    row_number() over (
      partition by snapshot, user_id
      order by
        event_ts desc nulls last,
        known_at desc,
        case when event_ts is null then {{ hash_text('seed', 'history', 'user_id || chr(31) || item_id') }} end,
        item_index
    ) as history_rank,
  from visible
),

{{ prompt_ranks('ranked', ['snapshot', 'user_id']) }}

select
  snapshot,
  as_of,
  user_id,
  item_id,
  event_ts,
  known_at,
  weight,
  recency_rank,
  history_rank,
  prompt_rank,
from prompt_ranked
