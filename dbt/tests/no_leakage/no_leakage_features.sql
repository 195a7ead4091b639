-- Counts in status and feature tables equal the number of known interactions at their as_of.
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

reported as (
  select 'user' as entity, 'activity' as source, as_of, user_id as id, n_interactions as n
  from {{ ref('feast_user_activity') }}
  union all
  select 'item' as entity, 'activity' as source, as_of, item_id as id, n_interactions as n
  from {{ ref('feast_item_activity') }}
  union all
  select 'user' as entity, 'status' as source, as_of, user_id as id, n_interactions as n
  from {{ ref('fct_user_status') }}
  inner join {{ ref('int_snapshots') }} using (snapshot)
  union all
  select 'item' as entity, 'status' as source, as_of, item_id as id, n_interactions as n
  from {{ ref('fct_item_status') }}
  inner join {{ ref('int_snapshots') }} using (snapshot)
)

select reported.*
from reported
left join counted
  on counted.entity = reported.entity
  and counted.as_of = reported.as_of
  and counted.id = reported.id
where reported.n <> coalesce(counted.n, 0)
