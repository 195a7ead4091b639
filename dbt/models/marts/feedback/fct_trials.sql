with impressions as (
  select
    request_id,
    coalesce(user_id, request_id) as unit,
    shown_at::date as day,
    arm,
    model,
    variant,
    was_clicked,
  from {{ ref('fct_impressions') }}
  where shown_at is not null
),

lists as (
  select
    request_id,
    unit,
    day,
    any_value(model) filter (arm = 'champion') as champion_model,
    any_value(variant) filter (arm = 'champion') as champion_variant,
    any_value(model) filter (arm = 'challenger') as challenger_model,
    any_value(variant) filter (arm = 'challenger') as challenger_variant,
    count(*) filter (arm = 'champion') as champion_places,
    count(*) filter (arm = 'challenger') as challenger_places,
    count(*) filter (arm = 'champion' and was_clicked) as champion_clicks,
    count(*) filter (arm = 'challenger' and was_clicked) as challenger_clicks,
  from impressions
  group by request_id, unit, day
),

-- Interleaved: both models in one list, and each user prefers the one whose items they clicked in more lists.
interleaved as (
  select
    champion_model,
    champion_variant,
    challenger_model,
    challenger_variant,
    unit,
    min(day) as first_day,
    max(day) as last_day,
    sum(sign(challenger_clicks - champion_clicks)) as wins,
  from lists
  where champion_places > 0 and challenger_places > 0
  group by champion_model, champion_variant, challenger_model, challenger_variant, unit
),

preferences as (
  select
    champion_model,
    champion_variant,
    challenger_model,
    challenger_variant,
    min(first_day) as first_day,
    max(last_day) as last_day,
    count(*) filter (wins <> 0) as users,
    count(*) filter (wins > 0) as won,
  from interleaved
  group by champion_model, champion_variant, challenger_model, challenger_variant
),

-- Split: one model a list. Only days on which both models answered count.
one_model as (
  select
    unit,
    day,
    coalesce(champion_model, challenger_model) as model,
    coalesce(champion_variant, challenger_variant) as variant,
    champion_places > 0 as is_champion,
    champion_places + challenger_places as places,
    champion_clicks + challenger_clicks as clicks,
  from lists
  where champion_places = 0 or challenger_places = 0
),

pairs as (
  select distinct
    champion.day,
    champion.model as champion_model,
    champion.variant as champion_variant,
    challenger.model as challenger_model,
    challenger.variant as challenger_variant,
  from one_model as champion
  inner join one_model as challenger
    on challenger.day = champion.day
    and not challenger.is_champion
  where champion.is_champion
),

click_rates as (
  select
    pairs.champion_model,
    pairs.champion_variant,
    pairs.challenger_model,
    pairs.challenger_variant,
    one_model.is_champion,
    one_model.unit,
    min(one_model.day) as first_day,
    max(one_model.day) as last_day,
    sum(one_model.clicks) / sum(one_model.places) as click_rate,
  from pairs
  inner join one_model
    on one_model.day = pairs.day
    and one_model.model = if(one_model.is_champion, pairs.champion_model, pairs.challenger_model)
    and one_model.variant = if(one_model.is_champion, pairs.champion_variant, pairs.challenger_variant)
  group by all
),

differences as (
  select
    champion_model,
    champion_variant,
    challenger_model,
    challenger_variant,
    min(first_day) as first_day,
    max(last_day) as last_day,
    least(count(*) filter (is_champion), count(*) filter (not is_champion)) as users,
    avg(click_rate) filter (not is_champion) - avg(click_rate) filter (is_champion) as difference,
    1.96 * sqrt(
      var_samp(click_rate) filter (not is_champion) / count(*) filter (not is_champion)
      + var_samp(click_rate) filter (is_champion) / count(*) filter (is_champion)
    ) as half_width,
  from click_rates
  group by champion_model, champion_variant, challenger_model, challenger_variant
)

select
  'interleave' as mode,
  champion_model,
  champion_variant,
  challenger_model,
  challenger_variant,
  first_day,
  last_day,
  users,
  2 * won / users - 1 as value,
  2 * {{ wilson('won', 'users', '-') }} - 1 as lo,
  2 * {{ wilson('won', 'users', '+') }} - 1 as hi,
from preferences
where users > 0
union all
select
  'split' as mode,
  champion_model,
  champion_variant,
  challenger_model,
  challenger_variant,
  first_day,
  last_day,
  users,
  difference as value,
  difference - half_width as lo,
  difference + half_width as hi,
from differences
where users > 1
