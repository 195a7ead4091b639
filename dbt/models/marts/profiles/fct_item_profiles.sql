{{ profile_history('item') }}
