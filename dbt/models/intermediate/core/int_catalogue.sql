with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

items as (
  select *
  from {{ ref('int_items') }}
),

trained as (
  select distinct item_id
  from {{ ref('int_interactions') }}
  where split = 'train'
),

ranked as (
  select
    trained.item_id,
    row_number() over (
      order by
        {{ hash_text('parameters.seed', 'pseudo_cold', 'trained.item_id') }},
        trained.item_id
    ) <= round(parameters.pseudo_cold_share * count(*) over ()) as is_pseudo_cold,
  from trained
  cross join parameters
)

select
  items.item_id,
  items.item_index,
  items.title,
  items.text,
  items.categories,
  left(
    trim(
      concat_ws(
        ' ',
        nullif(items.title, ''),
        nullif(array_to_string(items.categories, ' '), ''),
        left(items.text, parameters.max_text_length)
      )
    ),
    parameters.max_text_length
  ) as full_text,
  items.created_ts,
  items.first_seen_at,
  items.is_zero_shot,
  coalesce(ranked.is_pseudo_cold, false) as is_pseudo_cold,
  items.full_shot_candidate,
from items
cross join parameters
left join ranked on ranked.item_id = items.item_id
order by items.item_index
