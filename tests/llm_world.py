"""Six tastes for tests of the language model, without a warehouse: dialogues, their teacher and a tiny model.

A user picks two to four items of one taste and sometimes one of another; the teacher names the taste and each picked
item's own interest, so a profile follows from its history and from nothing else. The text of an item leads to its
audience's taste in the same way. `tiny_base` trains a model of one layer on all of that in about a second: it knows the
words and the form, and is there to be loaded, tuned and asked, not to be right.
"""

from __future__ import annotations

import random
import shutil
from functools import cache
from pathlib import Path

from reclm.dataset import SNAPSHOTS, EntityKind
from reclm.llm.prompts.dialogues import Dialogue
from reclm.llm.prompts.messages import (
    Facts,
    ItemFacts,
    UserFacts,
    answer,
    item_question,
    person_question,
    profile_request,
)
from reclm.profiles.grammar import Profile, render
from reclm.settings.tree import Settings
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact, content_hash

THEMES: dict[str, tuple[tuple[str, str], tuple[tuple[str, str], ...]]] = {
    "Coffee": (
        ("home barista", "early riser"),
        (("Burr grinder", "fresh beans"), ("Milk frother", "latte art"), ("Pour over kettle", "filter coffee"),
         ("Tamper mat", "espresso"), ("Moka pot", "stovetop brewing"), ("Cold brew jar", "iced coffee")),
    ),
    "Hiking": (
        ("weekend hiker", "nature lover"),
        (("Trail boots", "long walks"), ("Ridge tent", "wild camping"), ("Trekking poles", "steep ridges"),
         ("Camp stove", "outdoor cooking"), ("Map case", "navigation"), ("Rain shell", "alpine weather")),
    ),
    "Jazz": (
        ("vinyl collector", "night owl"),
        (("Turntable", "analogue sound"), ("Bebop box set", "bebop"), ("Brush sticks", "drumming"),
         ("Blue label reissue", "hard bop"), ("Trumpet mute", "brass"), ("Club poster", "live music")),
    ),
    "Garden": (
        ("patient gardener", "homeowner"),
        (("Pruning shears", "roses"), ("Seed trays", "seedlings"), ("Compost bin", "composting"),
         ("Rain barrel", "saving water"), ("Bee house", "pollinators"), ("Cold frame", "winter vegetables")),
    ),
    "Chess": (
        ("club player", "strategist"),
        (("Wooden board", "classic sets"), ("Opening book", "openings"), ("Chess clock", "blitz"),
         ("Endgame course", "endgames"), ("Puzzle deck", "tactics"), ("Score sheets", "tournaments")),
    ),
    "Sewing": (
        ("home tailor", "thrifty maker"),
        (("Linen fabric", "natural cloth"), ("Pattern paper", "pattern making"), ("Overlocker", "knitwear"),
         ("Quilting hoop", "quilting"), ("Denim needles", "mending"), ("Silk thread", "hand stitching")),
    ),
}  # fmt: skip
ITEMS: dict[str, tuple[str, str, str]] = {
    f"i{number:02d}": (theme, title, interest)
    for number, (theme, title, interest) in enumerate(
        (theme, title, interest) for theme, (_, items) in THEMES.items() for title, interest in items
    )
}
"""item id: (theme, title, interest of those who pick it)."""

N_USERS = 60
N_ITEMS = 40


class WorldTeacher:
    """What `reclm.llm.teacher.stage.Teacher` offers, of the world's users and items; every snapshot says the same."""

    def __init__(self, users: dict[str, str], items: dict[str, str], interests: dict[str, str]) -> None:
        self.profiles: dict[tuple[EntityKind, str], dict[str, str]] = {
            (kind, snapshot): dict(profiles)
            for kind, profiles in (("user", users), ("item", items))
            for snapshot in SNAPSHOTS
        }
        self._interests = interests

    def of(self, kind: EntityKind, entity_id: str, snapshot: str = "select") -> str | None:
        return self.profiles[kind, snapshot].get(entity_id)

    def interests(self, item_id: str, snapshot: str = "select") -> str:
        return self._interests.get(item_id, "")


def line_of(item_id: str) -> str:
    theme, title, _ = ITEMS[item_id]
    return f"{theme}: {title}"


def profile_of(item_ids: list[str]) -> str:
    """What the teacher says of people who picked these: the first one's taste, and each one's interest."""
    identities = THEMES[ITEMS[item_ids[0]][0]][0]
    return render(Profile(identities, tuple(dict.fromkeys(ITEMS[item][2] for item in item_ids))))


def _histories() -> dict[str, list[str]]:
    rng = random.Random(7)
    of_theme = {theme: [item for item in ITEMS if ITEMS[item][0] == theme] for theme in THEMES}
    names, histories = list(THEMES), {}
    for number in range(N_USERS):
        theme = names[number % len(names)]
        history = rng.sample(of_theme[theme], rng.randint(3, 4))
        if rng.random() < 0.3:
            history.append(rng.choice(of_theme[names[(number + 1) % len(names)]]))
        histories[f"u{number:02d}"] = history
    return histories


def _dialogue(
    kind: EntityKind, entity: str, number: int, facts: Facts, unmasked: Facts, **turn_two: object
) -> Dialogue:
    return Dialogue(
        dialogue_id=f"{kind}-{entity}-0",
        kind=kind,
        entity_id=entity,
        view=0,
        fold="held_out" if number % 5 == 4 else "train",
        facts=facts,
        unmasked=unmasked,
        served=unmasked,
        **turn_two,  # type: ignore[arg-type]
    )


def _user_dialogues(histories: dict[str, list[str]]) -> list[Dialogue]:
    found, users = [], list(histories)
    for number, user in enumerate(users):
        near = [other for other in users if other != user and (int(other[1:]) - number) % len(THEMES) == 0][:3]
        far = next(item for item in ITEMS if ITEMS[item][0] not in {ITEMS[i][0] for i in histories[user]})
        yes = number % 2 == 0
        withheld = histories[user][-1] if yes else far
        shown = [item for item in histories[user] if item != withheld]
        around = tuple(tuple(map(line_of, histories[other][:2])) for other in near)
        found.append(
            _dialogue(
                "user", user, number,
                UserFacts(tuple(map(line_of, shown)), around),
                UserFacts(tuple(map(line_of, histories[user])), around),
                question=(line_of(withheld),),
                answer=yes,
                withheld_id=withheld,
                neighbour_ids=tuple(near),
                popularity=float(sum(withheld in history for history in histories.values())),
                knn_score=float(sum(withheld in histories[other] for other in near)),
            )
        )  # fmt: skip
    return found


def _item_dialogues(histories: dict[str, list[str]]) -> list[Dialogue]:
    found = []
    for number in range(N_ITEMS):
        item = f"i{number % len(ITEMS):02d}"
        theme, title, _ = ITEMS[item]
        near = [other for other in ITEMS if other != item and ITEMS[other][0] == theme][:2]
        around = tuple((line_of(other), ", ".join(_interests_of(other))) for other in near)
        readers = [history for history in histories.values() if (item in history) == (number % 2 == 0)]
        person = tuple(line_of(other) for other in readers[number % len(readers)] if other != item)[:3]
        copy = number // len(ITEMS)  # some items come as a second one of the same make
        facts = ItemFacts(line_of(item), f"A {title.lower()} for {theme.lower()} people, version {copy + 1}.", around)
        dialogue = _dialogue(
            "item", item if copy == 0 else f"{item}b", number, facts, facts,
            question=person,
            answer=number % 2 == 0,
            withheld_id="",
            neighbour_ids=tuple(near),
            popularity=float(sum(item in history for history in histories.values())),
            knn_score=float(number % 3),
        )  # fmt: skip
        found.append(dialogue)
    return found


def _interests_of(item_id: str) -> tuple[str, ...]:
    theme, _, interest = ITEMS[item_id]
    return (interest, theme.lower())


@cache
def dialogues() -> tuple[Dialogue, ...]:
    """60 dialogues of users and 40 of items, one in five held out."""
    histories = _histories()
    return (*_user_dialogues(histories), *_item_dialogues(histories))


@cache
def teacher() -> WorldTeacher:
    histories = _histories()
    users = {user: profile_of(history) for user, history in histories.items()}
    items = {item: render(Profile(THEMES[theme][0], _interests_of(item))) for item, (theme, _, _) in ITEMS.items()}
    items |= {f"{item}b": profile for item, profile in list(items.items())[: N_ITEMS - len(ITEMS)]}
    return WorldTeacher(users, items, {item: ", ".join(_interests_of(item)) for item in items if item in ITEMS})


def documents() -> list[str]:
    """Every train dialogue as the text a model of our own template reads."""
    from reclm.llm.models.tiny import as_document

    found = []
    for dialogue in dialogues():
        if dialogue.fold == "train":
            ask = item_question if dialogue.kind == "user" else person_question
            shown = dialogue.question[0] if dialogue.kind == "user" else dialogue.question
            profile = teacher().of(dialogue.kind, dialogue.entity_id) or ""
            turns = [*profile_request(dialogue.facts, "compact"), {"role": "assistant", "content": profile}]
            question = ask(shown, "compact")  # type: ignore[arg-type]
            found.append(as_document([*turns, question, answer(dialogue.answer)]))  # type: ignore[list-item]
    return found


_MADE: list[Path] = []


def tiny_base(tmp_path: Path) -> Path:
    """A folder with a trained one-layer model and its tokenizer; trained once a process, then copied."""
    folder = tmp_path / "tiny-base"
    if not folder.exists():
        if not _MADE or not _MADE[0].exists():
            _train(folder)
            _MADE[:] = [folder]
        else:
            shutil.copytree(_MADE[0], folder)
    return folder


def _train(folder: Path) -> None:
    from reclm.llm.models.tiny import Size, train_model, train_tokenizer
    from reclm.progress import quiet

    tokenizer = train_tokenizer(documents(), 600)
    size = Size(hidden=32, layers=1, heads=1, intermediate=64)
    model = train_model(tokenizer, documents(), size, tokens=40_000, learning_rate=5e-3, seed=1, batch_tokens=1024)[0]
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def as_artifact(settings: Settings, kind: str, folder: Path) -> Artifact:
    """An artifact of that kind (`base`, `sft`, …) in the settings' workspace whose `model/` is a copy of `folder`."""
    parameters = {"base_model": "tiny", "revision": "", "from": content_hash(str(folder))}
    with artifacts.writing(settings.paths, kind, parameters, {}) as draft:
        shutil.copytree(folder, draft.path / "model")
    return artifacts.load(settings.paths, kind, artifacts.version_of(kind, parameters, {}))
