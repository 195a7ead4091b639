"""The feature store (Feast): marts and model vectors come in; training data and online features go out.

The features are declared in `feature_repo/`; no other room imports feast.
"""
