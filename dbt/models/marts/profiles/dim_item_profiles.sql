{{ current_profiles('item', false) }}
