with asked as (
  select
    interactions.user_id,
    interactions.item_id,
    interactions.split,
    items.is_pseudo_cold,
    candidates.snapshot,
    candidates.setting,
  from {{ ref('int_interactions') }} as interactions
  inner join {{ ref('dim_items') }} as items on items.item_id = interactions.item_id
  inner join {{ ref('fct_candidates') }} as candidates on candidates.item_id = interactions.item_id
)

select
  snapshot,
  setting,
  user_id,
  item_id,
from asked
where
  case concat(snapshot, '/', setting)
    when 'final/full_shot' then split = 'test'
    when 'final/zero_shot' then split in ('test', 'zero_shot')
    when 'select/full_shot' then split = 'valid'
    when 'select/zero_shot' then split in ('train', 'valid')
  end
