{{ config(tags=['items']) }}

with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

cut_offs as (
  select
    max(as_of) filter (snapshot = 'select') as valid_from,
    max(as_of) filter (snapshot = 'final') as test_from,
  from {{ ref('int_snapshots') }}
),

items as (
  select *
  from {{ ref('int_item_listing') }}
),

first_interactions as (
  select *
  from {{ ref('int_first_interactions') }}
),

seen as (
  select
    first_interactions.item_id,
    min(case when parameters.split_mode = 'temporal' then event_ts else {{ split_date('split') }} end) as first_seen_at,
  from first_interactions
  cross join parameters
  group by first_interactions.item_id
),

described as (
  select
    items.*,
    seen.first_seen_at,
    coalesce(seen.first_seen_at < cut_offs.valid_from, false) as seen_in_train,
    bool_or(items.zero_shot is not null) over () as has_flags,
    {{ hash_text('parameters.seed', 'zero_shot', 'items.item_id') }} as lot,
  from items
  cross join parameters
  cross join cut_offs
  left join seen on seen.item_id = items.item_id
),

-- Where the data does not say which items are zero-shot, a share of the trained ones is held out, drawn by hash.
drawn as (
  select
    *,
    seen_in_train
    and not has_flags
    and row_number() over (partition by seen_in_train order by lot, item_id)
    <= round((select zero_shot_share from parameters) * count(*) over (partition by seen_in_train)) as is_held_out,
  from described
)

select
  item_id,
  item_index,
  title,
  text,
  categories,
  created_ts,
  first_seen_at,
  full_shot_candidate,
  case
    when has_flags and zero_shot then true
    when is_held_out then true
    when parameters.split_mode = 'assigned' and has_flags then false
    else coalesce(first_seen_at >= cut_offs.test_from, true)
  end as is_zero_shot,
from drawn
cross join parameters
cross join cut_offs
