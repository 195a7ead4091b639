{{ config(tags=['items']) }}

with items as (
  select *
  from {{ ref('int_catalogue') }}
),

cleaned as (
  select
    item_id,
    item_index,
    coalesce({{ prompt_text('title', 120) }}, '') as title,
    list_filter(
      list_transform(coalesce(categories, [])[1:4], lambda c: {{ prompt_text('c', 40) }}),
      lambda c: c <> ''
    ) as categories,
    coalesce({{ prompt_text('text', 300) }}, '') as text,
  from items
)

select
  item_id,
  item_index,
  title,
  categories,
  case
    when title = '' and len(categories) = 0 then 'item ' || {{ prompt_text('item_id', 60) }}
    else concat_ws(': ', nullif(array_to_string(categories, ', '), ''), nullif(title, ''))
  end as line,
  text,
from cleaned
