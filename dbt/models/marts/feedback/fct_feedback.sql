with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

feedback as (
  select *
  from {{ ref('stg_feedback') }}
),

impressions as (
  select *
  from {{ ref('stg_impressions') }}
),

-- The sender names the answer.
by_request as (
  select
    feedback.*,
    impressions.request_id as shown_in,
    impressions.position,
    impressions.shown_at,
    impressions.model_version,
    impressions.arm,
    case when impressions.request_id is not null then 'request' end as matched_by,
  from feedback
  left join impressions
    on impressions.request_id = feedback.request_id
    and impressions.item_id = feedback.item_id
    and coalesce(impressions.user_id = feedback.user_id, true)
  where feedback.request_id is not null
),

-- Else the latest time this user was shown this item.
latest as (
  select
    feedback.*,
    coalesce(
      feedback.event_ts - impressions.shown_at <= to_seconds(parameters.answer_days * 86400), false
    ) as is_recent,
    case when is_recent then impressions.request_id end as shown_in,
    case when is_recent then impressions.position end as position,
    case when is_recent then impressions.shown_at end as shown_at,
    case when is_recent then impressions.model_version end as model_version,
    case when is_recent then impressions.arm end as arm,
    case when is_recent then 'user_and_item' end as matched_by,
  from feedback
  cross join parameters
  asof left join impressions
    on impressions.user_id = feedback.user_id
    and impressions.item_id = feedback.item_id
    and impressions.shown_at <= feedback.event_ts
  where feedback.request_id is null
),

matched as (
  select *
  from by_request
  union all by name
  select * exclude (is_recent)
  from latest
)

select
  event_id,
  event_type,
  user_id,
  item_id,
  event_ts,
  weight,
  matched_by,
  shown_in,
  position,
  shown_at,
  model_version,
  arm,
  source_file,
  source_row,
from matched
