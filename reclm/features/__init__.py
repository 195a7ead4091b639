"""Publish features to the feature store (Feast) and read them: training data offline, current features online.

In: the marts of the warehouse and the vectors of models. Out: training data and online features. The features are
declared in `feature_repo/`. No other room imports feast.
"""
