-- No snapshot knows a zero-shot item, and `select` knows no item held out as if cold.
{{ config(tags=['features', 'no_leakage']) }}

select
  known.snapshot,
  known.user_id,
  known.item_id,
from {{ ref('fct_known_interactions') }} as known
inner join {{ ref('dim_items') }} as items on items.item_id = known.item_id
where
  items.is_zero_shot
  or (known.snapshot = 'select' and items.is_pseudo_cold)
