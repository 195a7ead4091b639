{{ profile_features('item') }}
