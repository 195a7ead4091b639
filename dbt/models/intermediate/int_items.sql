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

landed as (
  select
    item_id,
    title,
    left(text, (select max_text_length from parameters)) as text,
    categories,
    created_ts,
    zero_shot,
    full_shot_candidate,
    row_number() over (order by first_landed.batch_number, first_landed.source_row, item_id) - 1 as item_index,
  from {{ ref('stg_items') }}
),

from_log as (
  select
    item_id,
    null::varchar as title,
    null::varchar as text,
    []::varchar[] as categories,
    null::timestamptz as created_ts,
    null::boolean as zero_shot,
    null::boolean as full_shot_candidate,
    row_number() over (order by try_cast(item_id as double) nulls last, item_id) - 1 as item_index,
  from (
    select distinct item_id
    from {{ ref('int_first_interactions') }}
    where (select count(*) = 0 from landed)
  )
),

catalogue as (
  select * from landed
  union all
  select * from from_log
),

seen as (
  select
    interactions.item_id,
    min(case when parameters.split_mode = 'temporal' then event_ts else {{ split_date('split') }} end) as first_seen_at,
    bool_or(split = 'zero_shot') as has_zero_shot_rows,
  from {{ ref('int_first_interactions') }} as interactions
  cross join parameters
  group by interactions.item_id
),

described as (
  select
    catalogue.*,
    seen.first_seen_at,
    coalesce(seen.first_seen_at < cut_offs.valid_from, false) as seen_in_train,
    coalesce(seen.has_zero_shot_rows, false) as has_zero_shot_rows,
    bool_or(catalogue.zero_shot is not null) over () as has_flags,
    {{ hash_text('parameters.seed', 'zero_shot', 'catalogue.item_id') }} as lot,
  from catalogue
  cross join parameters
  cross join cut_offs
  left join seen on seen.item_id = catalogue.item_id
),

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
    when parameters.split_mode = 'temporal' then coalesce(first_seen_at >= cut_offs.test_from, true)
    when has_flags then false
    else has_zero_shot_rows and coalesce(first_seen_at >= cut_offs.test_from, true)
  end as is_zero_shot,
from drawn
cross join parameters
cross join cut_offs
