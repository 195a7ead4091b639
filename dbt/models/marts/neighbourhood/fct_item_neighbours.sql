with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

recent as (
  select
    known.snapshot,
    known.user_id,
    items.item_index,
  from {{ ref('fct_known_interactions') }} as known
  inner join {{ ref('dim_items') }} as items on items.item_id = known.item_id
  cross join parameters
  where known.history_rank <= parameters.recent_items
),

readers as (
  select
    snapshot,
    item_index,
    count(*) as n,
  from recent
  group by snapshot, item_index
),

pairs as (
  select
    a.snapshot,
    a.item_index as item_index,
    b.item_index as other_index,
    count(*) as n,
  from recent as a
  inner join recent as b
    on b.snapshot = a.snapshot
    and b.user_id = a.user_id
    and b.item_index > a.item_index
  group by all
),

both_ways as (
  select snapshot, item_index, other_index, n from pairs
  union all
  select snapshot, other_index, item_index, n from pairs
),

scored as (
  select
    both_ways.snapshot,
    both_ways.item_index,
    both_ways.other_index,
    both_ways.n / sqrt(a.n * b.n) as score,
    row_number() over (
      partition by both_ways.snapshot, both_ways.item_index
      order by both_ways.n / sqrt(a.n * b.n) desc, both_ways.other_index
    ) as rank,
  from both_ways
  inner join readers as a on a.snapshot = both_ways.snapshot and a.item_index = both_ways.item_index
  inner join readers as b on b.snapshot = both_ways.snapshot and b.item_index = both_ways.other_index
  qualify rank <= (select neighbours from parameters)
),

co_occurrence as (
  select
    scored.snapshot,
    items.item_id,
    others.item_id as neighbour_id,
    scored.score,
    scored.rank,
    'co_occurrence' as source,
  from scored
  inner join {{ ref('dim_items') }} as items on items.item_index = scored.item_index
  inner join {{ ref('dim_items') }} as others on others.item_index = scored.other_index
),

combined as (
  select * from co_occurrence
  union all
  select
    texts.snapshot,
    texts.item_id,
    texts.neighbour_id,
    texts.score,
    texts.rank,
    'text' as source,
  from {{ ref('int_item_text_neighbours') }} as texts
  inner join {{ ref('fct_item_status') }} as status
    on status.snapshot = texts.snapshot
    and status.item_id = texts.item_id
    and not status.is_warm
)

select
  combined.snapshot,
  snapshots.as_of,
  combined.item_id,
  combined.neighbour_id,
  combined.score::double as score,
  combined.rank::bigint as rank,
  combined.source,
from combined
inner join {{ ref('int_snapshots') }} as snapshots on snapshots.snapshot = combined.snapshot
