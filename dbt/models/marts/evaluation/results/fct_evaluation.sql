with results as (
  select *
  from {{ source('artifacts', 'evaluation_results') }}
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
  'seed': 'bigint',
  'metric': 'varchar',
  'k': 'bigint',
  'value': 'double',
  'lo': 'double',
  'hi': 'double',
  'n_users': 'bigint',
}) }}
