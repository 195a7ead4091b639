-- What is to be found is not known: no pair is in the truth and in the knowledge, or in the mask, of one snapshot.
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
