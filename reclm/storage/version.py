"""The version of reclm, part of every artifact's version."""

VERSION = "0.1.0"
