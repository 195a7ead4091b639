"""One measured check: a value and its bounds come in, a row with a status and what to do goes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reclm.settings.operations import HealthSettings

BREACHES = ("warn", "fail")
NOTHING = "Nothing to do."


@dataclass(frozen=True)
class Measured:
    """`value` None means that it cannot be told, and `unknown` why; `remedy` is what to do when a bound is broken."""

    name: str
    subject: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    remedy: str = ""
    unknown: str = ""

    @property
    def is_breached(self) -> bool:
        """A value that is not a number breaches every bound."""
        if self.value is None:
            return False
        if math.isnan(self.value):
            return True
        return (self.lower is not None and self.value < self.lower) or (
            self.upper is not None and self.value > self.upper
        )

    def row(self, settings: HealthSettings) -> dict[str, Any]:
        """The columns of `checks.parquet` that are the check's own."""
        advice = self.remedy if self.is_breached else NOTHING
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
