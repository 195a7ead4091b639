with results as (
  select *
  from {{ source('artifacts', 'health_checks') }}
),

current_artifacts as (
  select *
  from {{ ref('stg_current_artifacts') }}
)

{{ current_results('health', {
  'checked_at': 'timestamptz',
  'dataset': 'varchar',
  'as_of': 'timestamptz',
  'name': 'varchar',
  'subject': 'varchar',
  'value': 'double',
  'lower_bound': 'double',
  'upper_bound': 'double',
  'status': 'varchar',
  'advice': 'varchar',
}) }}
