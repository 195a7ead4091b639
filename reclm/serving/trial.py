"""Answer with the champion, with its challenger, or with one list drafted from both.

In: a request and the indexes of both models. Out: which of them answer it, and their answers as one. Which users meet
the challenger is decided by a hash (`trials/assignment.py`), how by `serve.trial`. An answer and each of its items name
their `arm`, which is logged with the impressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reclm.trials.assignment import CHALLENGER, CHAMPION, Arm, assign
from reclm.trials.interleaving import team_draft

if TYPE_CHECKING:
    from reclm.serving.candidate_index import CandidateIndex
    from reclm.serving.filters import RankingRequest

INTERLEAVED = "interleaved"
Answer = dict[str, Any]


def answering(
    champion: CandidateIndex, challenger: CandidateIndex | None, request: RankingRequest, request_id: str
) -> dict[Arm, CandidateIndex]:
    """Return the indexes that answer a request: one of the two, or both.

    Lists with pins or a limit by category are not interleaved, because drafting from two would break both rules.
    """
    serve = champion.settings.serve
    if challenger is None:
        return {CHAMPION: champion}
    trial = f"{challenger.pointer['model']}/{challenger.pointer['variant']}"
    if assign(request.user_id or request_id, trial, serve.challenger_share) == CHAMPION:
        return {CHAMPION: champion}
    if serve.trial == "split":
        return {CHALLENGER: challenger}
    if request.rules.pins or request.rules.max_per_category:
        return {CHAMPION: champion}
    return {CHAMPION: champion, CHALLENGER: challenger}


def one_answer(answers: Mapping[Arm, Answer], k: int, request_id: str) -> Answer:
    """Return one answer: the only one, or the champion's with items drafted from both (`trials/interleaving.py`)."""
    items = {arm: {item["item_id"]: item for item in answer["items"]} for arm, answer in answers.items()}
    if len(answers) == 1:
        ((arm, answer),) = answers.items()
        return answer | {"arm": arm, "challenger": None, "items": [item | {"arm": arm} for item in answer["items"]]}
    drafted = team_draft(list(items[CHAMPION]), list(items[CHALLENGER]), k, request_id)
    return answers[CHAMPION] | {
        "arm": INTERLEAVED,
        "challenger": answers[CHALLENGER]["model"],
        "items": [items[arm][item_id] | {"arm": arm} for item_id, arm in drafted],
    }
