"""Selecting and refitting backbones on the snapshots of the warehouse."""
