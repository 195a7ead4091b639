{{ config(tags=['items']) }}

with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

interactions as (
  select *
  from {{ ref('int_interactions') }}
),

catalogue as (
  select *
  from {{ ref('dim_items') }}
),

trained as (
  select
    item_id,
    bool_or(split = 'train') as in_train,
    bool_or(split = 'valid') as in_valid,
    bool_or(split = 'zero_shot') as in_zero_shot,
  from interactions
  group by item_id
),

items as (
  select
    catalogue.*,
    coalesce(trained.in_train, false) as in_train,
    coalesce(trained.in_valid, false) as in_valid,
    bool_or(coalesce(trained.in_zero_shot, false)) over () as has_zero_shot_rows,
    bool_or(catalogue.full_shot_candidate is not null) over () as has_candidates,
  from catalogue
  left join trained on trained.item_id = catalogue.item_id
),

warm_or_cold as (
  select
    'final' as snapshot,
    'full_shot' as setting,
    item_id,
  from items
  where case when has_candidates then coalesce(full_shot_candidate, false) else not is_zero_shot end
  union all
  select
    'final' as snapshot,
    'zero_shot' as setting,
    item_id,
  from items
  where is_zero_shot
  union all
  select
    'select' as snapshot,
    'full_shot' as setting,
    item_id,
  from items
  where in_train and not is_zero_shot and not is_pseudo_cold
  union all
  select
    'select' as snapshot,
    'zero_shot' as setting,
    item_id,
  from items
  cross join parameters
  where
    is_pseudo_cold
    or (
      in_valid
      and not in_train
      and not is_zero_shot
      and (split_mode = 'temporal' or not has_zero_shot_rows)
    )
    or (is_zero_shot and first_seen_at is null)
)

select
  snapshot,
  setting,
  item_id,
from warm_or_cold
union all
select distinct
  snapshot,
  'mixed' as setting,
  item_id,
from warm_or_cold
