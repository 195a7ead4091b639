-- Neither `select` nor `final` has known interactions of a zero-shot item, and `select` has none of an item held out
-- as cold.
{{ config(tags=['features', 'no_leakage']) }}

select
  known.snapshot,
  known.user_id,
  known.item_id,
from {{ ref('fct_known_interactions') }} as known
inner join {{ ref('dim_items') }} as items on items.item_id = known.item_id
where
  (known.snapshot in ('select', 'final') and items.is_zero_shot)
  or (known.snapshot = 'select' and items.is_pseudo_cold)
