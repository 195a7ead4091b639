-- No pair of the truth is known in the same snapshot, or masked in the same snapshot and setting.
{{ config(tags=['features', 'no_leakage']) }}

select
  truth.snapshot,
  truth.setting,
  truth.user_id,
  truth.item_id,
from {{ ref('fct_truth') }} as truth
where
  (truth.snapshot, truth.user_id, truth.item_id) in (
    select (snapshot, user_id, item_id)
    from {{ ref('fct_known_interactions') }}
  )
  or (truth.snapshot, truth.setting, truth.user_id, truth.item_id) in (
    select (snapshot, setting, user_id, item_id)
    from {{ ref('fct_mask') }}
  )
