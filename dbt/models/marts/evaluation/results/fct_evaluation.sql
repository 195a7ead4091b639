{{ current_results('evaluation', 'evaluation_results', {
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
