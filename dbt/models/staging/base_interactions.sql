{{ config(materialized='table') }}

{% set columns = [
  'user_id', 'item_id', 'event_ts', 'weight', 'split', 'in_sparse_train', 'event_type', 'event_id', 'request_id'
] %}

with landed as not materialized (
  select *
  from {{ source('landing', 'interactions') }}
),

batches as (
  select *
  from {{ ref('stg_batches') }}
),

parameters as (
  select
    *,
    event_weights::json::map(varchar, double) as weight_of_event,
  from {{ ref('stg_parameters') }}
),

items as (
  select *
  from {{ ref('base_items') }}
),

ordered as not materialized (
  {{ with_batch_number('interactions') }}
),

{{ read_times('event_ts', time_settings()) }},

accepted_items as (
  select distinct item_id
  from items
  where status = 'accepted'
),

-- Items of the log that was there before the first item table: they stay known, without a text.
known_before as (
  select distinct ordered.item_id
  from ordered
  inner join batches on batches.batch_number = ordered.batch_number
  where batches.before_items
),

item_table as (
  select count(*) > 0 as landed
  from items
),

typed as (
  select
    *,
    nullif(trim(weight), '') as weight_text,
    try_cast(weight_text as double) as weight_value,
    lower(nullif(trim(split), '')) as split_label,
    coalesce(try_cast(nullif(trim(in_sparse_train), '') as boolean), false) as is_sparse_train,
    lower(nullif(trim(event_type), '')) as event_name,
  from timed
),

weighed as (
  select
    typed.*,
    parameters.weight_of_event[event_name] as type_weight,
    case
      when event_name is null then weight_value
      when type_weight > 0 then coalesce(weight_value, type_weight)
      else type_weight
    end as event_weight,
  from typed
  cross join parameters
),

judged as (
  select
    weighed.*,
    case
      when coalesce(weighed.user_id, weighed.item_id, event_ts, weight, split, in_sparse_train, event_type) is null
        then 'unreadable_line'
      when weighed.user_id is null or not regexp_matches(weighed.user_id, '\S') then 'missing_user_id'
      when weighed.item_id is null or not regexp_matches(weighed.item_id, '\S') then 'missing_item_id'
      when length(weighed.user_id) > 512 or length(weighed.item_id) > 512 then 'id_too_long'
      when parameters.has_event_ts and time_text is null then 'missing_timestamp'
      when time_form = 'suspect' then 'suspect_timestamp'
      when time_form = 'ambiguous' then 'ambiguous_timestamp'
      when time_text is not null and coalesce(time_at < timestamptz '1970-01-01 00:00:00+00', true)
        then 'bad_timestamp'
      when time_at > current_timestamp then 'future_event'
      when weight_text is not null and not coalesce(isfinite(weight_value), false) then 'bad_weight'
      when event_name is not null and type_weight is null then 'unknown_event_type'
      when
        parameters.split_mode = 'assigned'
        and coalesce(split_label not in ('train', 'valid', 'test', 'zero_shot'), true)
        then 'unknown_split'
      when item_table.landed and accepted_items.item_id is null and known_before.item_id is null then 'unknown_item'
    end as fault,
    coalesce(time_at >= parameters.known_until, false) as is_pending,
  from weighed
  cross join parameters
  cross join item_table
  left join accepted_items on accepted_items.item_id = weighed.item_id
  left join known_before on known_before.item_id = weighed.item_id
),

numbered as (
  select
    *,
    event_id is null as is_log_row,
    row_number() over (
      partition by
        fault,
        is_log_row,
        coalesce(event_id, user_id),
        case when is_log_row then item_id end,
        case when is_log_row then time_at end,
        case when is_log_row then weight_value end,
        case when is_log_row then split_label end,
        case when is_log_row then is_sparse_train end,
        case when is_log_row then event_name end
      order by batch_number, filename, source_row
    ) as nth_copy,
  from judged
)

select
  user_id,
  item_id,
  time_at as event_ts,
  time_form,
  event_weight as weight,
  split_label as split,
  is_sparse_train as in_sparse_train,
  event_name as event_type,
  event_id,
  request_id,
  batch_number,
  source_file,
  source_row,
  fault as reason,
  case
    when fault is not null then 'quarantined'
    when nth_copy > 1 then 'repeat'
    when is_pending then 'pending'
    when event_weight < 0 or event_weight = 0 and event_name is not null then 'not_a_like'
    else 'accepted'
  end as status,
  {{ faulty_interaction_value() }} as faulty_value,
  case
    when fault is not null then {{ raw_values(columns) }}
  end as raw,
from numbered
