-- Counts in status and feature tables are counts of what is known at their as_of, no more and no less.
{{ config(tags=['features', 'no_leakage']) }}

with counted as (
  select 'user' as entity, snapshot, as_of, user_id as id, count(*) as n
  from {{ ref('fct_known_interactions') }}
  group by all
  union all
  select 'item' as entity, snapshot, as_of, item_id as id, count(*) as n
  from {{ ref('fct_known_interactions') }}
  group by all
),

claimed as (
  select 'user' as entity, 'activity' as place, as_of, user_id as id, n_interactions as n
  from {{ ref('feast_user_activity') }}
  union all
  select 'item' as entity, 'activity' as place, as_of, item_id as id, n_interactions as n
  from {{ ref('feast_item_activity') }}
  union all
  select 'user' as entity, 'status' as place, as_of, user_id as id, n_interactions as n
  from {{ ref('fct_user_status') }}
  inner join {{ ref('int_snapshots') }} using (snapshot)
  union all
  select 'item' as entity, 'status' as place, as_of, item_id as id, n_interactions as n
  from {{ ref('fct_item_status') }}
  inner join {{ ref('int_snapshots') }} using (snapshot)
)

select claimed.*
from claimed
left join counted
  on counted.entity = claimed.entity
  and counted.as_of = claimed.as_of
  and counted.id = claimed.id
where claimed.n <> coalesce(counted.n, 0)
