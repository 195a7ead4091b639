with base as (
  select *
  from {{ ref('base_interactions') }}
)

select
  event_id,
  coalesce(event_type, 'low_rating') as event_type,
  user_id,
  item_id,
  event_ts,
  weight,
  request_id,
  batch_number,
  source_file,
  source_row,
from base
where
  status = 'not_a_like'
  or (status = 'accepted' and event_type is not null)
