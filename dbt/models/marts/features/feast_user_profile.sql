{{ profile_features('user') }}
