with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

interactions as (
  select *
  from {{ ref('int_interactions') }}
),

items as (
  select *
  from {{ ref('dim_items') }}
),

candidates as (
  select *
  from {{ ref('fct_candidates') }}
),

candidate_interactions as (
  select
    candidates.snapshot,
    candidates.setting,
    interactions.user_id,
    interactions.item_id,
    interactions.split,
    items.is_pseudo_cold,
  from interactions
  inner join items on items.item_id = interactions.item_id
  inner join candidates on candidates.item_id = interactions.item_id
)

select
  snapshot,
  setting,
  user_id,
  item_id,
from candidate_interactions
cross join parameters
where
  case concat(snapshot, '/', setting)
    when 'final/full_shot' then split = 'test'
    when 'final/zero_shot' then split in ('test', 'zero_shot')
    -- The zero-shot rows of a log with a clock may lie before the cut-off: they are not what people do next.
    when 'final/mixed' then split = 'test' or (split = 'zero_shot' and parameters.split_mode = 'assigned')
    when 'select/full_shot' then split = 'valid'
    when 'select/mixed'
      then split = 'valid' or (is_pseudo_cold and split = 'train' and parameters.split_mode = 'assigned')
    when 'select/zero_shot' then split in ('train', 'valid')
  end
