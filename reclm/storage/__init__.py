"""The workspace on disk: its layout, artifacts and their schemas, locks, records of runs, atomic files."""
