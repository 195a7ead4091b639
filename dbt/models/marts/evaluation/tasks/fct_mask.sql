with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

snapshots as (
  select *
  from {{ ref('int_snapshots') }}
  where snapshot in ('select', 'final')
),

interactions as (
  select *
  from {{ ref('int_interactions') }}
),

items as (
  select *
  from {{ ref('dim_items') }}
)

select
  snapshots.snapshot,
  settings.setting,
  interactions.user_id,
  interactions.item_id,
from interactions
inner join items on items.item_id = interactions.item_id
cross join snapshots
cross join parameters
cross join (values ('full_shot'), ('mixed')) as settings(setting)
where
  case concat(snapshots.snapshot, '/', settings.setting)
    when 'final/full_shot' then interactions.split in ('train', 'valid')
    -- Where a log has a clock, earlier rows of held-out items are no truth: nobody is expected to pick them again.
    when 'final/mixed'
      then interactions.split in ('train', 'valid')
        or (interactions.split = 'zero_shot' and parameters.split_mode = 'temporal')
    when 'select/full_shot' then interactions.split = 'train' and not items.is_pseudo_cold
    when 'select/mixed'
      then interactions.split = 'train' and not (items.is_pseudo_cold and parameters.split_mode = 'assigned')
  end
