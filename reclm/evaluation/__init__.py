"""Measure trained models and baselines on the test slice: metrics, intervals, bands, comparisons and the report."""
