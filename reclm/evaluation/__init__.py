"""Ranking metrics, intervals, bands, comparisons, tracking and the report: what every claim of this project is read from."""
