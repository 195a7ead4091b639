select user_id
from {{ ref('stg_users') }}
union
select user_id
from {{ ref('stg_interactions') }}
order by user_id
