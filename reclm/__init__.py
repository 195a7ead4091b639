"""reclm: recommendations that know who people are and what things are for, even on day one."""

__version__ = "0.1.0"
