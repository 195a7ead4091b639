"""Say which model answers a request while two of them are tried: the champion or its challenger.

Users are split by a hash of the challenger's version and their id, so that a user always meets the same model, and
another trial splits them anew (Kohavi, Tang & Xu 2020, chapter 14). A request without a user is split by its own id.
"""

from __future__ import annotations

from typing import Literal

from reclm.trials.exploration import fraction_of

Arm = Literal["champion", "challenger"]
CHAMPION: Arm = "champion"
CHALLENGER: Arm = "challenger"


def assign(key: str, challenger_version: str, share: float) -> Arm:
    """Return the arm of a user (or, without one, of a request): `challenger` for a `share` of all keys."""
    return CHALLENGER if fraction_of(f"trial {challenger_version}", key) < share else CHAMPION
