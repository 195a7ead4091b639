with results as (
  select *
  from {{ source('artifacts', 'comparisons') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
)

{{ current_results('evaluation', {
  'dataset': 'varchar',
  'regime': 'varchar',
  'setting': 'varchar',
  'model': 'varchar',
  'variant': 'varchar',
  'other_model': 'varchar',
  'other_variant': 'varchar',
  'metric': 'varchar',
  'k': 'bigint',
  'seed': 'bigint',
  'diff': 'double',
  'lo_users': 'double',
  'hi_users': 'double',
  'lo_items': 'double',
  'hi_items': 'double',
}) }}
