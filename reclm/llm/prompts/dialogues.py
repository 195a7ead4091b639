"""Dialogues of two turns, as rows of the warehouse: `fct_user_dialogues` and `fct_item_dialogues` come in, typed rows go out.

Turn 1 shows what is known of an entity and is answered by its teacher's profile; turn 2 asks about an item withheld from
turn 1 (for an item: about a person), with negatives that only neighbours touched, so that the answer needs
collaborative signal (RecLM, arXiv 2412.19302, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reclm.llm.prompts.messages import Facts, Kind

Fold = Literal["train", "held_out"]


@dataclass(frozen=True)
class Dialogue:
    """One dialogue.

    `entity_id` is the user or item that turn 1 is about, and `view` numbers its dialogues: 0 shows it as it is served,
    higher ones show a well-known user as if sparse. `facts` leave out `withheld_id`; `unmasked` are the facts with it,
    for the ablation; `served` is what a profile is asked with when it is written for use. `question` are the lines turn 2 shows: the withheld item's one line, or a person's items.
    `neighbour_ids` are entities of the same kind, nearest first. `popularity` (known interactions of the item) and
    `knn_score` (item-kNN score of the pair) are the baselines of turn 2. Entities with equal histories (items: equal texts) share a `fold`.
    `known` are the lines of all that is known of the entity, for a judge who should know more than the writer was shown: a
    user's whole history, what the audience of an item picks besides. `asks` is False where there is no turn 2: nothing can be
    withheld of a single interaction, and where neighbours touched nothing else there is no No to ask about.
    """

    dialogue_id: str
    kind: Kind
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
