{{ current_results('health', 'health_checks', {
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
