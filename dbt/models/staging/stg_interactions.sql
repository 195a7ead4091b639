with base as (
  select *
  from {{ ref('base_interactions') }}
)

select
  user_id,
  item_id,
  event_ts,
  weight,
  split,
  in_sparse_train,
  event_type,
  event_id,
  batch_number,
  source_file,
  source_row,
from base
where status = 'accepted'
