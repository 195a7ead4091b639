with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

cards as (
  select *
  from {{ ref('int_item_cards') }}
),

item_status as (
  select *
  from {{ ref('int_item_status') }}
  where snapshot = 'select'
),

named as (
  select
    cards.item_id,
    cards.line,
    cards.text,
    item_status.n_interactions,
    concat('item:', cards.item_id, ':0') as dialogue_id,
  from cards
  inner join item_status on item_status.item_id = cards.item_id
  where item_status.n_interactions >= 3
)

select
  named.dialogue_id,
  'select' as snapshot,
  named.item_id,
  0::bigint as view,
  case
    when {{ hash_unit('parameters.seed', 'fold', 'named.line || chr(31) || named.text') }} < 0.1 then 'held_out'
    else 'train'
  end as fold,
  {{ hash_unit('parameters.seed', 'answer', 'named.dialogue_id') }} < 0.5 as answer,
  named.n_interactions,
from named
cross join parameters
