{{ config(materialized='table') }}

with landed as (
  select *
  from {{ source('landing', 'users') }}
),

batches as (
  select *
  from {{ ref('stg_batches') }}
),

ordered as (
  {{ with_batch_number('users') }}
),

judged as (
  select
    *,
    case
      when coalesce(user_id, text) is null then 'unreadable_line'
      when user_id is null or not regexp_matches(user_id, '\S') then 'missing_user_id'
      when length(user_id) > 512 then 'id_too_long'
    end as fault,
  from ordered
),

numbered as (
  select
    *,
    row_number() over (partition by user_id, fault, batch_number order by filename, source_row) as nth_in_batch,
    max(batch_number) over (partition by user_id, fault) as last_batch,
  from judged
)

select
  user_id,
  {{ clean_text('text') }} as text,
  batch_number,
  source_file,
  source_row,
  case
    when fault is not null then fault
    when nth_in_batch > 1 then 'duplicate_user'
  end as reason,
  case
    when reason is not null then 'quarantined'
    when batch_number < last_batch then 'superseded'
    else 'accepted'
  end as status,
  user_id as faulty_value,
  case
    when reason is not null then {{ raw_values(['user_id', 'text']) }}
  end as raw,
from numbered
