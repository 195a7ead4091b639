with impressions as (
  select *
  from {{ ref('stg_impressions') }}
),

feedback as (
  select *
  from {{ ref('fct_feedback') }}
),

answers as (
  select
    shown_in,
    position,
    bool_or(event_type = 'impression') as was_seen,
    bool_or(event_type = 'click') as was_clicked,
    bool_or(event_type = 'purchase') as was_bought,
    bool_or(weight < 0) as was_disliked,
  from feedback
  where shown_in is not null
  group by shown_in, position
)

select
  impressions.request_id,
  impressions.position,
  impressions.user_id,
  impressions.item_id,
  impressions.score,
  impressions.propensity,
  impressions.shown_at,
  impressions.model_version,
  impressions.model,
  impressions.variant,
  impressions.arm,
  impressions.source,
  coalesce(answers.was_seen, false) as was_seen,
  coalesce(answers.was_clicked, false) as was_clicked,
  coalesce(answers.was_bought, false) as was_bought,
  coalesce(answers.was_disliked, false) as was_disliked,
from impressions
left join answers
  on answers.shown_in = impressions.request_id
  and answers.position = impressions.position
