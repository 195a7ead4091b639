with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

first_interactions as (
  select event_ts
  from {{ ref('int_first_interactions') }}
  where event_ts is not null
),

ranked as (
  select
    event_ts,
    row_number() over (order by event_ts) - 1 as position,
    count(*) over () as n,
    min(event_ts) over () as earliest,
  from first_interactions
),

quantiles as (
  select
    min(ranked.event_ts) filter (position >= floor(n * train_share)) as after_train,
    min(ranked.event_ts) filter (position >= floor(n * (train_share + valid_share))) as after_valid,
    min(earliest) as earliest,
    max(ranked.event_ts) as latest,
  from ranked
  cross join parameters
),

cut_offs as (
  select
    case
      when split_mode = 'temporal' and earliest is not null
        then greatest(after_train, earliest + interval 1 microsecond)
      else {{ split_date("'valid'") }}
    end as valid_from,
    case
      when split_mode = 'temporal' and earliest is not null
        then greatest(after_valid, valid_from + interval 1 microsecond)
      else {{ split_date("'test'") }}
    end as test_from,
    case
      when split_mode = 'temporal' and earliest is not null
        then greatest(latest, test_from) + interval 1 microsecond
      else {{ split_date("'serve'") }}
    end as serve_from,
    split_mode = 'assigned' as ts_is_synthetic,
  from parameters
  left join quantiles on true
)

select
  'select' as snapshot,
  valid_from as as_of,
  ts_is_synthetic,
from cut_offs
union all
select
  'final' as snapshot,
  test_from as as_of,
  ts_is_synthetic,
from cut_offs
union all
select
  'serve' as snapshot,
  serve_from as as_of,
  ts_is_synthetic,
from cut_offs
