{{ config(tags=['items'], materialized='table') }}

{% set columns = ['item_id', 'title', 'text', 'categories', 'created_ts', 'zero_shot', 'full_shot_candidate'] %}

with landed as not materialized (
  select *
  from {{ source('landing', 'items') }}
),

batches as (
  select *
  from {{ ref('stg_batches') }}
),

ordered as (
  {{ with_batch_number('items') }}
),

{{ read_times('created_ts', time_settings()) }},

typed as (
  select
    *,
    try_cast(nullif(trim(zero_shot), '') as boolean) as zero_shot_flag,
    try_cast(nullif(trim(full_shot_candidate), '') as boolean) as candidate_flag,
  from timed
),

judged as (
  select
    *,
    case
      when coalesce(item_id, title, text, categories, created_ts, zero_shot, full_shot_candidate) is null
        then 'unreadable_line'
      when item_id is null or not regexp_matches(item_id, '\S') then 'missing_item_id'
      when length(item_id) > 512 then 'id_too_long'
      when time_form = 'suspect' then 'suspect_created_ts'
      when time_form = 'ambiguous' then 'ambiguous_created_ts'
      when time_form = 'unreadable' then 'bad_created_ts'
      when
        (nullif(trim(zero_shot), '') is not null and zero_shot_flag is null)
        or (nullif(trim(full_shot_candidate), '') is not null and candidate_flag is null)
        then 'bad_flag'
    end as fault,
  from typed
),

numbered as (
  select
    *,
    row_number() over same_batch as nth_in_batch,
    max(batch_number) over same_item as last_batch,
    first_value({'batch_number': batch_number, 'source_row': source_row}) over (
      partition by item_id, fault
      order by batch_number, source_row
    ) as first_landed,
  from judged
  window
    same_batch as (partition by item_id, fault, batch_number order by filename, source_row),
    same_item as (partition by item_id, fault)
)

select
  item_id,
  {{ clean_text('title') }} as title,
  {{ clean_text('text') }} as text,
  list_filter(
    list_transform(string_split({{ clean_text('categories') }}, '|'), lambda c: trim(c)),
    lambda c: c <> ''
  ) as categories,
  time_at as created_ts,
  zero_shot_flag as zero_shot,
  candidate_flag as full_shot_candidate,
  first_landed,
  batch_number,
  source_file,
  source_row,
  case
    when fault is not null then fault
    when nth_in_batch > 1 then 'duplicate_item'
  end as reason,
  case
    when reason is not null then 'quarantined'
    when batch_number < last_batch then 'superseded'
    else 'accepted'
  end as status,
  case
    when ends_with(reason, '_created_ts') then created_ts
    when reason = 'bad_flag' then concat_ws(' / ', zero_shot, full_shot_candidate)
    else item_id
  end as faulty_value,
  case
    when reason is not null
      then {{ raw_values(columns) }}
  end as raw,
from numbered
