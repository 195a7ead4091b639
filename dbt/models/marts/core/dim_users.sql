with described_users as (
  select user_id
  from {{ ref('stg_users') }}
),

active_users as (
  select user_id
  from {{ ref('stg_interactions') }}
),

users as (
  select user_id
  from described_users
  union
  select user_id
  from active_users
)

select
  user_id,
  row_number() over (order by user_id) - 1 as user_index,
from users
order by user_id
