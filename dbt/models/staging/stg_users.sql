with base as (
  select *
  from {{ ref('base_users') }}
)

select
  user_id,
  text,
  source_file,
  source_row,
from base
where status = 'accepted'
