with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

landed_items as (
  select *
  from {{ ref('stg_items') }}
),

first_interactions as (
  select *
  from {{ ref('int_first_interactions') }}
),

from_item_table as (
  select
    item_id,
    title,
    left(text, (select max_text_length from parameters)) as text,
    categories,
    created_ts,
    zero_shot,
    full_shot_candidate,
    row_number() over (order by first_landed.batch_number, first_landed.source_row, item_id) - 1 as item_index,
  from landed_items
),

-- A log without an item table: its items in natural order, numbers before other ids.
logged_ids as (
  select distinct item_id
  from first_interactions
  where (select count(*) = 0 from landed_items)
),

from_log as (
  select
    item_id,
    null::varchar as title,
    null::varchar as text,
    []::varchar[] as categories,
    null::timestamptz as created_ts,
    null::boolean as zero_shot,
    null::boolean as full_shot_candidate,
    row_number() over (order by try_cast(item_id as double) nulls last, item_id) - 1 as item_index,
  from logged_ids
)

select *
from from_item_table
union all
select *
from from_log
