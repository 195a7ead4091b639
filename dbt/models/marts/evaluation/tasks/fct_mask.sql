with snapshots as (
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
cross join (values ('full_shot'), ('mixed')) as settings(setting)
where
  case snapshots.snapshot
    when 'final' then interactions.split in ('train', 'valid')
    else interactions.split = 'train' and not items.is_pseudo_cold
  end
