"""The typed settings tree."""
