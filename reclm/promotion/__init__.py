"""Decide which model is served: the policy, its decisions, the champion and its candidates."""
