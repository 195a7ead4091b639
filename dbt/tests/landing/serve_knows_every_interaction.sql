-- Snapshot `serve` knows every accepted interaction but those of items that the user also disliked, so nobody is
-- recommended what they are known to have taken.
{{ config(tags=['features']) }}

select
  interactions.user_id,
  interactions.item_id,
from {{ ref('int_interactions') }} as interactions
anti join {{ ref('fct_known_interactions') }} as known
  on known.snapshot = 'serve'
  and known.user_id = interactions.user_id
  and known.item_id = interactions.item_id
anti join {{ ref('stg_feedback') }} as dislikes
  on dislikes.weight < 0
  and dislikes.user_id = interactions.user_id
  and dislikes.item_id = interactions.item_id
