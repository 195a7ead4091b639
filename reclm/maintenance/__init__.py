"""Removal of what is no longer needed (`cleanup`) and of everything known about one user (`forget`)."""
