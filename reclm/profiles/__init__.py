"""Profiles: their text form, the keyword engine that writes them, and metrics of their quality."""
