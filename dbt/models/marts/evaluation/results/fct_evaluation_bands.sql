with results as (
  select *
  from {{ source('artifacts', 'evaluation_bands') }}
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
  'band_kind': 'varchar',
  'band': 'varchar',
  'metric': 'varchar',
  'k': 'bigint',
  'value': 'double',
  'n': 'bigint',
}) }}
