{{ current_results('evaluation', 'evaluation_bands', {
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
