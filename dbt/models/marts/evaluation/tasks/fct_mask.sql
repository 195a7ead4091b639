select
  snapshots.snapshot,
  'full_shot' as setting,
  interactions.user_id,
  interactions.item_id,
from {{ ref('int_interactions') }} as interactions
inner join {{ ref('dim_items') }} as items on items.item_id = interactions.item_id
cross join {{ ref('int_snapshots') }} as snapshots
where
  case snapshots.snapshot
    when 'final' then interactions.split in ('train', 'valid')
    else interactions.split = 'train' and not items.is_pseudo_cold
  end
