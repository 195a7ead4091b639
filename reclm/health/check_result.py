"""Hold the result of one health check.

In: a value and the bounds it has to keep. Out: a row of `checks.parquet` with a status and what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reclm.settings.operations import HealthSettings

BREACHES = ("warn", "fail")
NO_ADVICE = "Nothing to do."


@dataclass(frozen=True)
class CheckResult:
    """One value with its bounds; `value` is None when it cannot be computed, and `unknown` then says why.

    `remedy` is the advice that is shown when a bound is broken.
    """

    name: str
    subject: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    remedy: str = ""
    unknown: str = ""

    @property
    def is_breached(self) -> bool:
        """Whether the value lies outside its bounds. A value that is not a number lies outside all bounds."""
        if self.value is None:
            return False
        if math.isnan(self.value):
            return True
        return (self.lower is not None and self.value < self.lower) or (
            self.upper is not None and self.value > self.upper
        )

    def row(self, settings: HealthSettings) -> dict[str, Any]:
        """Return the columns of `checks.parquet` that belong to this check."""
        advice = self.remedy if self.is_breached else NO_ADVICE
        status = ("fail" if self.name in settings.fail else "warn") if self.is_breached else "ok"
        if self.value is None:
            status, advice = "unknown", self.unknown
        return {
            "name": self.name,
            "subject": self.subject,
            "value": self.value,
            "lower_bound": self.lower,
            "upper_bound": self.upper,
            "status": status,
            "advice": advice,
        }
