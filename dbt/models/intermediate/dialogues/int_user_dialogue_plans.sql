with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select'
),

users as (
  select
    user_id,
    count(*) as n_known,
    string_agg(item_id, chr(31) order by item_id) as history,
  from known_interactions
  group by user_id
),

views as (
  select
    users.user_id,
    users.n_known >= 2 as asks,
    unnest(case when users.n_known >= 5 then range(0, parameters.sparse_views + 1) else [0] end)::bigint as view,
    case
      when {{ hash_unit('parameters.seed', 'fold', 'users.history') }} < 0.1 then 'held_out'
      else 'train'
    end as fold,
    parameters.seed,
  from users
  cross join parameters
),

named as (
  select
    *,
    concat('user:', user_id, ':', view) as dialogue_id,
  from views
)

select
  dialogue_id,
  user_id,
  view,
  fold,
  asks,
  asks and {{ hash_unit('seed', 'answer', 'dialogue_id') }} < 0.5 as answer,
  (1 + floor({{ hash_unit('seed', 'sparse', 'dialogue_id') }} * 3))::bigint as n_if_sparse,
from named
