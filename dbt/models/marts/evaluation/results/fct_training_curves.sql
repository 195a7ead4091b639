with results as (
  select *
  from {{ source('artifacts', 'training_curves') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
)

{{ current_results('backbone', {
  'model': 'varchar',
  'variant': 'varchar',
  'seed': 'bigint',
  'snapshot': 'varchar',
  'epoch': 'bigint',
  'loss': 'double',
  'setting': 'varchar',
  'metric': 'varchar',
  'value': 'double',
}) }}
