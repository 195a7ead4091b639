"""Failures that a user can fix, one class each; the message names the place, the value and the remedy."""


class ReclmError(Exception):
    """Base of all failures that are reported without a traceback. `exit_code` is what the command line returns."""

    exit_code = 1


class SettingsError(ReclmError):
    """A settings key or value that cannot be used."""

    exit_code = 2


class InputError(ReclmError):
    """A file, column or row a user gave that cannot be read at all (rows that can be set apart go to quarantine)."""

    exit_code = 3


class WorkspaceError(ReclmError):
    """A workspace that lacks what a stage needs; the message names the command that makes it."""

    exit_code = 4


class BuildError(ReclmError):
    """dbt stopped: a model or a data test failed."""

    exit_code = 5


class PublishError(ReclmError):
    """Features that must not be published: wrong width, NaN, wrong type, no time zone, or older than the current."""

    exit_code = 6


class ArtifactError(ReclmError):
    """An artifact that is missing, incomplete or not what its manifest says."""

    exit_code = 7


class ModelError(ReclmError):
    """A model that is unknown, cannot be loaded, or cannot do what is requested (an id it was not fitted on)."""

    exit_code = 8


class ErasureError(ReclmError):
    """An erased user whose id is still in files that only their owner may change; the message names them."""

    exit_code = 10


class HealthError(ReclmError):
    """A health check named in `health.fail` found a value out of bounds; the message has check, value and advice."""

    exit_code = 9
