{{ current_profiles('user', false) }}
