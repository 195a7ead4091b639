{{ config(materialized='table') }}

{% set columns = ['user_id', 'item_id', 'event_ts', 'weight', 'split', 'in_sparse_train'] %}

with landed as (
  select *
  from {{ source('landing', 'interactions') }}
),

batches as (
  select *
  from {{ ref('stg_batches') }}
),

parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

items as (
  select *
  from {{ ref('base_items') }}
),

ordered as (
  {{ with_batch_number('interactions') }}
),

accepted_items as (
  select distinct item_id
  from items
  where status = 'accepted'
),

item_table as (
  select count(*) > 0 as landed
  from items
),

typed as (
  select
    *,
    nullif(trim(event_ts), '') as event_text,
    {{ parse_timestamp('event_text') }} as event_at,
    nullif(trim(weight), '') as weight_text,
    try_cast(weight_text as double) as weight_value,
    lower(nullif(trim(split), '')) as split_label,
    coalesce(try_cast(nullif(trim(in_sparse_train), '') as boolean), false) as is_sparse_train,
  from ordered
),

judged as (
  select
    typed.*,
    case
      when coalesce(typed.user_id, typed.item_id, event_ts, weight, split, in_sparse_train) is null
        then 'unreadable_line'
      when typed.user_id is null or not regexp_matches(typed.user_id, '\S') then 'missing_user_id'
      when typed.item_id is null or not regexp_matches(typed.item_id, '\S') then 'missing_item_id'
      when length(typed.user_id) > 512 or length(typed.item_id) > 512 then 'id_too_long'
      when parameters.has_event_ts and event_text is null then 'missing_timestamp'
      when event_text is not null and coalesce(event_at < timestamptz '1970-01-01 00:00:00+00', true)
        then 'bad_timestamp'
      when event_at > current_timestamp then 'future_event'
      when weight_text is not null and not coalesce(isfinite(weight_value), false) then 'bad_weight'
      when
        parameters.split_mode = 'assigned'
        and coalesce(split_label not in ('train', 'valid', 'test', 'zero_shot'), true)
        then 'unknown_split'
      when item_table.landed and accepted_items.item_id is null then 'unknown_item'
    end as fault,
    coalesce(event_at >= parameters.known_until, false) as is_pending,
  from typed
  cross join parameters
  cross join item_table
  left join accepted_items on accepted_items.item_id = typed.item_id
),

numbered as (
  select
    *,
    row_number() over (
      partition by user_id, item_id, event_at, weight_value, split_label, is_sparse_train, fault
      order by batch_number, filename, source_row
    ) as nth_copy,
  from judged
)

select
  user_id,
  item_id,
  event_at as event_ts,
  weight_value as weight,
  split_label as split,
  is_sparse_train as in_sparse_train,
  batch_number,
  source_file,
  source_row,
  case
    when fault is not null then fault
    when nth_copy > 1 then 'duplicate'
  end as reason,
  case
    when reason is not null then 'quarantined'
    when is_pending then 'pending'
    else 'accepted'
  end as status,
  {{ faulty_interaction_value() }} as faulty_value,
  case
    when reason is not null then {{ raw_values(columns) }}
  end as raw,
from numbered
