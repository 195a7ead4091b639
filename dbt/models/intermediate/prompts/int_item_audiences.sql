with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
),

latest as (
  select
    snapshot,
    item_id,
    user_id,
    row_number() over (
      partition by snapshot, item_id
      order by known_at desc, event_ts desc nulls last, user_id
    ) as position,
  from known_interactions
  qualify position <= (select prompt_history from parameters)
)

select
  snapshot,
  item_id,
  list({'user_id': user_id} order by position) as users,
from latest
group by snapshot, item_id
