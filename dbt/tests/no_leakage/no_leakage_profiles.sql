-- Current profiles and their features have an as_of at or before the newest cut-off.
{{ config(tags=['profiles', 'no_leakage']) }}

with used as (
  select user_id as id, as_of from {{ ref('dim_user_profiles') }}
  union all
  select item_id as id, as_of from {{ ref('dim_item_profiles') }}
  union all
  select user_id as id, as_of from {{ ref('feast_user_profile') }}
  union all
  select item_id as id, as_of from {{ ref('feast_item_profile') }}
)

select *
from used
where as_of > (select max(as_of) from {{ ref('int_snapshots') }})
