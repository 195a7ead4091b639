"""Health checks of data, profiles, vectors and the feature store: `checks` runs them and writes the artifact."""
