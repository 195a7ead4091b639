"""Which writer's profiles are worth what: `reclm ablate`."""

from __future__ import annotations

from reclm.ablation.run import ablate, plan
from reclm.ablation.table import ablation_table

__all__ = ["ablate", "ablation_table", "plan"]
