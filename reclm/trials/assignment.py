"""Say which model answers a request while two of them are tried: the champion or its challenger.

Users are split by a hash of the trial's name and their id, so that a user always meets the same model, and another
trial splits them anew (Kohavi, Tang & Xu 2020, chapter 14). A request without a user is split by its own id.
"""

from __future__ import annotations

from typing import Literal

from reclm.trials.exploration import fraction_of

Arm = Literal["champion", "challenger"]
CHAMPION: Arm = "champion"
CHALLENGER: Arm = "challenger"


def assign(key: str, trial: str, share: float) -> Arm:
    """Return the arm of a user (or, without one, of a request): `challenger` for a `share` of all keys.

    `trial` names what is tried, such as `als/augment`; it must not change while the trial runs.
    """
    return CHALLENGER if fraction_of(f"trial {trial}", key) < share else CHAMPION
