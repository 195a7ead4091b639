"""Check the health of data, profiles, vectors and the feature store; `checks` runs it all and writes the artifact."""
