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
  from {{ ref('int_items') }}
),

first_interactions as (
  select *
  from {{ ref('int_first_interactions') }}
),

assigned as (
  select
    first_interactions.*,
    case
      when parameters.split_mode = 'assigned' then first_interactions.split
      when event_ts < cut_offs.valid_from then 'train'
      when event_ts < cut_offs.test_from then 'valid'
      else 'test'
    end as period,
    case
      when items.is_zero_shot and period in ('train', 'valid') then 'zero_shot'
      when not items.is_zero_shot and period = 'zero_shot' then 'test'
      else period
    end as own_split,
  from first_interactions
  inner join items on items.item_id = first_interactions.item_id
  cross join parameters
  cross join cut_offs
),

-- Data that came with splits but without a validation slice gets one, drawn by hash from train.
lots as (
  select
    assigned.*,
    parameters.split_mode = 'assigned' and not bool_or(own_split = 'valid') over () as lacks_valid,
    {{ hash_text('parameters.seed', 'valid', "assigned.user_id || chr(31) || assigned.item_id") }} as lot,
  from assigned
  cross join parameters
),

drawn as (
  select
    lots.*,
    lacks_valid
    and own_split = 'train'
    and (cast('0x' || left(lot, 8) as bigint) / 4294967296.0) < (select valid_share from parameters)
    and row_number() over (partition by user_id, own_split order by lot desc, item_id) > 1 as is_set_aside,
  from lots
)

select
  user_id,
  item_id,
  event_ts,
  case
    when (select split_mode from parameters) = 'temporal' then event_ts
    else {{ split_date("case when is_set_aside then 'valid' else own_split end") }}
  end as known_at,
  case
    when is_set_aside then 'valid'
    else own_split
  end as split,
  weight,
  in_sparse_train,
  n_events,
from drawn
