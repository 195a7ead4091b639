{{ profile_history('user') }}
