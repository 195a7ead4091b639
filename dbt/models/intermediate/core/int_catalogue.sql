{{ config(tags=['items']) }}

with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

items as (
  select *
  from {{ ref('int_items') }}
),

interactions as (
  select *
  from {{ ref('int_interactions') }}
),

touched as (
  select
    items.item_id,
    items.is_zero_shot,
    items.first_seen_at,
    bool_or(interactions.split = 'train') as in_train,
    bool_or(interactions.split = 'valid') as in_valid,
    -- Whether cold items are taken out of the whole log, or are those that came last.
    bool_or(bool_or(interactions.split = 'zero_shot')) over () as has_zero_shot_rows,
  from interactions
  inner join items on items.item_id = interactions.item_id
  group by items.item_id, items.is_zero_shot, items.first_seen_at
),

-- As many cold items are validated on as are evaluated on, within half of and the whole pseudo_cold_share.
wanted as (
  select
    count(*) filter (is_zero_shot) as n_evaluated,
    count(*) filter (
      in_valid
      and not in_train
      and not is_zero_shot
      and (parameters.split_mode = 'temporal' or not has_zero_shot_rows)
    ) as n_new,
    max(parameters.pseudo_cold_share) * count(*) filter (in_train and not is_zero_shot) as n_most,
    round(least(greatest(n_evaluated - n_new, n_most / 2), n_most)) as n_pseudo_cold,
  from touched
  cross join parameters
),

ranked as (
  select
    touched.item_id,
    row_number() over (
      order by
        case when not has_zero_shot_rows then first_seen_at end desc nulls last,
        {{ hash_text('parameters.seed', 'pseudo_cold', 'touched.item_id') }},
        touched.item_id
    ) <= wanted.n_pseudo_cold as is_pseudo_cold,
  from touched
  cross join parameters
  cross join wanted
  where in_train and not is_zero_shot
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
