-- Landed rows = accepted + superseded + pending + not likes + repeats + quarantined, for each landing table.
{{ config(tags=['features']) }}

with counts as (
  {% for table in ['interactions', 'items', 'users'] %}
  select
    '{{ table }}' as table_name,
    (select count(*) from {{ source('landing', table) }}) as n_landed,
    (select count(*) from {{ ref('stg_' ~ table) }}) as n_accepted,
    (select count(*) from {{ ref('quarantine_' ~ table) }}) as n_quarantined,
    (
      select count(*)
      from {{ ref('base_' ~ table) }}
      where status in ('superseded', 'pending', 'not_a_like', 'repeat')
    ) as n_other,
  {{ 'union all' if not loop.last }}
  {% endfor %}
)

select *
from counts
where n_landed <> n_accepted + n_quarantined + n_other
