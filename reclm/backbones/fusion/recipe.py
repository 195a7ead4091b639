"""The constants of fusion that decide quality: what each does, and what changes when it changes.

They hold for every network. What depends on the data set or on the machine is a setting instead (`settings.fusion`).
"""

from __future__ import annotations

import numpy as np

HIDDEN_SHARE = {"content": 0.0, "item_profile": 0.8, "user_profile": 0.5}
"""Share of a tower's rows that each training step hides. A warm entity's profile was written with knowledge of the very
interactions that training predicts, a cold one's was not: the more is hidden, the less the model relies on that."""
INITIAL_SCALE = 0.1
"""Standard deviation of id vectors at the start, and about that of a tower's output. Larger ones learn slower."""
MATCHED_SCALE = 0.01
"""It replaces INITIAL_SCALE in the hidden layer of a tower whose linear path starts matched, so as not to drown it."""
TEXT_WIDTH = 256
"""Columns of the text kernel that the content tower reads. More of them tell rarer words apart, and cost time."""
HISTORY_WIDTH = 128
"""Columns of the text embeddings that a history is read in."""
HISTORY_SHRINKAGE = 2.0
"""Interactions at which a history counts half: its vector is scaled by n / (n + HISTORY_SHRINKAGE). A larger value
trusts short histories less."""
PROFILE_SPREAD = 0.1
"""Spread of the scores that profiles start with, as a share of that of histories (`fusion.matched_spread`)."""
RIDGE_PENALTIES = np.logspace(-2, 4, 13)
"""Penalties tried for the regression that predicts a cold item's popularity from its text."""
SPREAD_SAMPLE = 1000  # users measured at most to find the spread of scores: a limit on time, not on quality
MIN_SPREAD = 1e-6  # spread of the cosines of texts that differ by rounding alone
MIN_LENGTH = 1e-3  # length of a sum of texts, each about 1 long, that rounding alone may leave
