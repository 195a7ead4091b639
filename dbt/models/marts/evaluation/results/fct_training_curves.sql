{{ current_results('backbone', 'training_curves', {
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
