select
  user_id,
  text,
  source_file,
  source_row,
from {{ ref('base_users') }}
where status = 'accepted'
