with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

interactions as (
  select *
  from {{ ref('stg_interactions') }}
),

ordered as (
  select
    interactions.*,
    case
      when parameters.split_mode = 'temporal' or split = 'train' then 0
      when split = 'valid' then 1
      else 2
    end as split_rank,
    {
      'split_rank': split_rank,
      'event_ts': coalesce(event_ts, timestamptz 'infinity'),
      'batch': batch_number,
      'source_row': source_row,
    } as order_key,
  from interactions
  cross join parameters
),

firsts as (
  select
    user_id,
    item_id,
    arg_min({'event_ts': event_ts, 'split': split, 'weight': weight}, order_key) as first_row,
    bool_or(in_sparse_train) as in_sparse_train,
    count(*) as n_events,
  from ordered
  group by user_id, item_id
)

select
  user_id,
  item_id,
  first_row.event_ts,
  first_row.split,
  coalesce(first_row.weight, 1.0) as weight,
  in_sparse_train,
  n_events,
from firsts
