{{ config(tags=['items']) }}

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

-- Items that only the log has, since it came without an item table or before one: in natural order after those of the
-- item table, numbers before other ids.
logged_ids as (
  select distinct item_id
  from first_interactions
  anti join landed_items on landed_items.item_id = first_interactions.item_id
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
    (select count(*) from landed_items)
    + row_number() over (order by try_cast(item_id as double) nulls last, item_id) - 1 as item_index,
  from logged_ids
)

select *
from from_item_table
union all
select *
from from_log
