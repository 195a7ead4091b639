"""Ask what people did with two models that were tried side by side, before one replaces the other.

In: a candidate's and the champion's kind, and `fct_trials`. Out: why the candidate must not replace the champion yet,
or ''. Only with `promotion.online_winner`.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reclm.settings.tree import Settings

Kind = tuple[str, str]
"""Backbone and variant."""


def online_evidence(settings: Settings) -> dict[str, Any]:
    """Return the part of a decision's inputs that people's answers are: the rows of `fct_trials` where they count."""
    return {"online": _trials(settings)} if settings.promotion.online_winner else {}


def online_objection(settings: Settings, candidate: Kind, champion: Kind) -> str:
    """Return why people's answers do not favour `candidate` over `champion`; '' where they do or do not count.

    They favour it where the 95 % interval lies above 0, over at least `promotion.min_users` users. Of two modes the one
    with more users counts.
    """
    if not settings.promotion.online_winner:
        return ""
    names = f"{'/'.join(candidate)} over {'/'.join(champion)}"
    found = [row[4:] for row in _trials(settings) if (*row[:2],) == candidate and (*row[2:4],) == champion]
    if not found:
        return f"people were never asked about {names}; promotion.online_winner needs `reclm challenge` first"
    users, value, lo, hi = max(found)
    if users < settings.promotion.min_users:
        return f"{users} users answered about {names}, and promotion.min_users requires {settings.promotion.min_users}"
    if lo <= 0:
        return f"people do not prefer {names}: {value:+.4f} [{lo:+.4f}, {hi:+.4f}] over {users} users"
    return ""


def _trials(settings: Settings) -> list[list[Any]]:
    """Challenger (model, variant), champion (model, variant), users, value, lo, hi of each row."""
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        rows = connection.execute(
            "select challenger_model, challenger_variant, champion_model, champion_variant, users, value, lo, hi "
            "from fct_trials order by all"
        ).fetchall()
    return [list(row) for row in rows]
