with impressions as (
  select *
  from {{ ref('fct_impressions') }}
),

counted as (
  select
    shown_at::date as day,
    model_version,
    model,
    variant,
    arm,
    count(distinct request_id) as answers,
    count(*) as impressions,
    count(*) filter (was_clicked) as clicks,
    count(*) filter (was_bought) as conversions,
  from impressions
  group by all
)

select
  day,
  model_version,
  model,
  variant,
  arm,
  answers,
  impressions,
  clicks,
  clicks / impressions as click_rate,
  {{ wilson('clicks', 'impressions', '-') }} as click_rate_lo,
  {{ wilson('clicks', 'impressions', '+') }} as click_rate_hi,
  conversions,
  conversions / impressions as conversion_rate,
  {{ wilson('conversions', 'impressions', '-') }} as conversion_rate_lo,
  {{ wilson('conversions', 'impressions', '+') }} as conversion_rate_hi,
from counted
