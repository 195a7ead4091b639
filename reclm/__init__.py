"""reclm: recommendations that know who people are and what things are for, even on day one."""

from reclm.storage.version import VERSION as __version__

__all__ = ["__version__"]
