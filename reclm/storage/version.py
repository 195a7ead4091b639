"""The version of reclm, part of every artifact's version, and the number of the workspace layout it reads."""

VERSION = "0.2.0"
LAYOUT = 3
"""What a workspace's files are called and hold; `dataset.json` records it. Raise it when older ones cannot be read."""
