with visible as (
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
  from {{ ref('int_interactions') }} as interactions
  inner join {{ ref('dim_items') }} as items on items.item_id = interactions.item_id
  cross join {{ ref('stg_parameters') }} as parameters
  inner join {{ ref('int_snapshots') }} as snapshots
    on interactions.known_at < snapshots.as_of
    and not items.is_zero_shot
    and not (snapshots.snapshot = 'select' and items.is_pseudo_cold)
  where
    interactions.split in ('train', 'valid')
    and (parameters.regime = 'dense' or interactions.in_sparse_train)
)
,

tastes as (
  select
    snapshot,
    user_id,
    category,
    count(*) as n_items,
  from (
    select
      snapshot,
      user_id,
      unnest(categories) as category,
    from visible
  )
  group by snapshot, user_id, category
),

typicality as (
  select
    shown.snapshot,
    shown.user_id,
    shown.item_id,
    avg(tastes.n_items) as typicality,
  from (
    select
      snapshot,
      user_id,
      item_id,
      unnest(categories) as category,
    from visible
  ) as shown
  inner join tastes using (snapshot, user_id, category)
  group by shown.snapshot, shown.user_id, shown.item_id
),

ranked as (
  select
    visible.*,
    coalesce(typicality.typicality, 0) as typicality,
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
  left join typicality using (snapshot, user_id, item_id)
),

typical as (
  select
    *,
    row_number() over (partition by snapshot, user_id order by typicality desc, history_rank) as typical_rank,
  from ranked
)

-- Prompts show the first few: one of the latest, one of the most typical, in turn, however many they are.
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
  row_number() over (
    partition by snapshot, user_id
    order by least(2 * history_rank - 1, 2 * typical_rank), history_rank
  ) as prompt_rank,
from typical
