-- Snapshot `serve` knows every accepted interaction, so nobody is recommended what they are known to have taken.
{{ config(tags=['features']) }}

select
  interactions.user_id,
  interactions.item_id,
from {{ ref('int_interactions') }} as interactions
anti join {{ ref('fct_known_interactions') }} as known
  on known.snapshot = 'serve'
  and known.user_id = interactions.user_id
  and known.item_id = interactions.item_id
