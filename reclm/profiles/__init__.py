"""Profiles: their text form, how they are written, how good they are, and their vectors."""
