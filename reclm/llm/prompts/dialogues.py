"""Two-turn dialogues as typed rows: `fct_user_dialogues` and `fct_item_dialogues` of the warehouse, one object per row.

Turn 1 shows what is known of a user or item and is answered by the teacher's profile. Turn 2 asks about an item
withheld from turn 1 (for an item: about a user). Negatives are items that only neighbours interacted with, so the
answer needs collaborative signal (RecLM, arXiv 2412.19302, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reclm.dataset import EntityKind
from reclm.llm.prompts.messages import Facts

Fold = Literal["train", "held_out"]


@dataclass(frozen=True)
class Dialogue:
    """One dialogue about a user or an item.

    `entity_id` is the user or item of turn 1. `view` numbers its dialogues: 0 shows it as it is served, higher numbers
    show a user with many interactions as if there were few. Users with equal histories (items: equal texts) share a
    `fold`.

    `facts` leave out the withheld item or user, `withheld_id`; `unmasked` include it, for the ablation; `served` are
    the facts of the prompt from which the final profile is written. `known` are lines with everything known, for a
    judge who should know more than the writer was shown: a user's whole history, or what an item's audience also picks.

    `question` are the lines that turn 2 shows: the withheld item's line, or the items of the withheld user. `asks` is
    False where there is no turn 2: a single interaction cannot be withheld, and without items that only neighbours
    interacted with there is no No to ask about. `popularity` (interactions of the item) and `knn_score` (item-kNN score
    of the pair) are the baselines of turn 2. `neighbour_ids` are of the same kind, nearest first.
    """

    dialogue_id: str
    kind: EntityKind
    entity_id: str
    view: int
    fold: Fold
    facts: Facts
    unmasked: Facts
    served: Facts
    question: tuple[str, ...]
    answer: bool
    withheld_id: str
    neighbour_ids: tuple[str, ...]
    popularity: float
    knn_score: float
    known: tuple[str, ...] = ()
    asks: bool = True
