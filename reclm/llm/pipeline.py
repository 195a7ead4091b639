"""Run the language model's pipeline.

In: a warehouse. Out: a teacher, a base, a tuned, a reward and a refined model. Each model is made from the one before
it, or reused when nothing it depends on has changed. All of them learn from snapshot `select` alone, so that what they
write at every snapshot uses nothing later. What the teacher wrote about held-out users and items is in no prompt, no
corpus and no answer that a model is trained on. The order of the steps is RecLM's (arXiv 2412.19302, section 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from reclm.errors import ArtifactError, WorkspaceError
from reclm.llm.models.training_cutoff import recorded_cutoff
from reclm.llm.prompts.dialogues import Dialogue
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.llm.teacher.stage import Teacher
    from reclm.settings.tree import Settings

MIN_TRAIN_DIALOGUES = 50
"""With fewer train dialogues that have a teacher's profile, no language model is trained."""
MIN_HELD_OUT = 2
"""Held-out entities of at least one kind that measuring the tuning and the refinement needs."""
MAX_IDENTITIES = 10


def has_texts(settings: Settings) -> bool:
    """Return whether any item of the warehouse has a title, category or text."""
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        found = connection.execute("select 1 from dim_items where trim(coalesce(full_text, '')) != '' limit 1")
        return found.fetchone() is not None


def why_no_model(settings: Settings) -> str:
    """Explain why no language model can be trained on the current warehouse, '' when one can.

    Reads only: nothing is written and no endpoint is asked. A teacher whose artifact is missing is computed in memory;
    an endpoint that has not answered yet is expected to describe enough users and items.
    """
    from reclm.llm.teacher.stage import preview_teacher

    if not has_texts(settings):
        return "no item has a title, category or text, so profiles stay empty"
    teacher = preview_teacher(settings)
    if teacher is None:
        return ""
    return lack_of_data(dialogues_of(settings, teacher), teacher, settings.seed)


def dialogues_of(settings: Settings, teacher: Teacher) -> list[Dialogue]:
    """Load every dialogue of the warehouse, those of held-out users and items too.

    Interests of an item's audience come from the teacher, except for held-out items: no prompt shows what the teacher
    wrote of those.
    """
    from reclm.llm.prompts.facts import load_dialogues
    from reclm.warehouse.reading import connect

    with closing(connect(settings)) as connection:
        rows = connection.execute("select distinct item_id from fct_item_dialogues where fold = 'held_out'").fetchall()
        held_out = {row[0] for row in rows}
        return load_dialogues(connection, lambda item: "" if item in held_out else teacher.interests(item))


def lack_of_data(dialogues: Sequence[Dialogue], teacher: Teacher, seed: int) -> str:
    """Return the reason why these dialogues are too few to train a language model, or '' when they are enough."""
    from reclm.dataset import ENTITY_KINDS
    from reclm.llm.tuning.heldout import sample

    train = sum(d.fold == "train" and teacher.of(d.kind, d.entity_id) is not None for d in dialogues)
    held_out = max(len(sample(dialogues, teacher, kind, MIN_HELD_OUT, seed)) for kind in ENTITY_KINDS)
    if train >= MIN_TRAIN_DIALOGUES and held_out >= MIN_HELD_OUT:
        return ""
    return (
        f"the teacher wrote of {train} users and items to learn from and {held_out} to measure by; "
        f"at least {MIN_TRAIN_DIALOGUES} and {MIN_HELD_OUT} are needed. It writes of users whose items have "
        "something in common, and of items with a text and a few users"
    )


@dataclass
class ModelPipeline:
    """The steps from a warehouse to a refined language model; what several steps read is loaded once, when needed."""

    settings: Settings

    @cached_property
    def teacher(self) -> tuple[Artifact, Teacher]:
        """The teacher's artifact and its profiles; writes them when they do not exist yet."""
        from reclm.llm.teacher.stage import load_teacher, write_teacher

        artifact = write_teacher(self.settings)
        if artifact is None:
            raise ArtifactError("the teacher wrote no profile")
        return artifact, load_teacher(self.settings, artifact)

    @cached_property
    def dialogues(self) -> list[Dialogue]:
        """Every dialogue of the warehouse, with the audiences' interests as the teacher describes them."""
        return dialogues_of(self.settings, self.teacher[1])

    @cached_property
    def parents(self) -> dict[str, str]:
        """The versions of the teacher and the warehouse, which every model of the pipeline names as its parents."""
        from reclm.warehouse.reading import whole_fingerprint

        return {"teacher": self.teacher[0].version, "warehouse": whole_fingerprint(self.settings.paths)}

    def lack_of_data(self) -> str:
        """Return the reason why there is too little data to train a language model, or '' when there is enough."""
        return lack_of_data(self.dialogues, self.teacher[1], self.settings.seed)

    def base_model(self) -> Artifact:
        """Make the base model: train it from scratch on dialogues and item texts, or pin the one that is configured.

        Raises WorkspaceError when there is too little to learn from, before anything is trained.
        """
        if reason := self.lack_of_data():
            raise WorkspaceError(f"{reason}; bring a longer log, or set profiles.engine to 'extractive'")
        from reclm.llm.models.base import write_base
        from reclm.llm.prompts.corpus import Corpus, corpus
        from reclm.llm.prompts.shape import shape_of

        def documents() -> Corpus:
            practices = self.settings.llm.practices if self.settings.teacher.engine != "extractive" else 0
            found = corpus(
                self.dialogues,
                self.teacher[1],
                shape_of(self.settings),
                self._item_texts(),
                self._keyword_profiles() if practices else None,
                practices,
            )
            return replace(found, training_cutoff=recorded_cutoff(self.teacher[0]))

        return write_base(self.settings, documents)

    def _keyword_profiles(self) -> Teacher:
        """Write keyword profiles of all users and items at `select`, as long as most of the teacher's.

        The base model practises on them where the teacher wrote nothing.
        """
        from reclm.llm.teacher.stage import Teacher
        from reclm.profiles import grammar
        from reclm.profiles.keywords import WrittenProfiles, write_profiles
        from reclm.profiles.snapshot_data import load_catalogue, load_snapshot_data
        from reclm.profiles.terms import item_terms
        from reclm.warehouse.reading import connect

        train_users = {d.entity_id for d in self.dialogues if (d.kind, d.fold) == ("user", "train")}
        texts = [text for user, text in self.teacher[1].profiles["user", "select"].items() if user in train_users]
        parsed = [profile for text in texts if (profile := grammar.parse(text).profile)]
        lengths = {
            "identities": Counter(min(len(profile.identity), MAX_IDENTITIES) for profile in parsed),
            "interests": Counter(len(profile.interests) for profile in parsed),
        }
        most_common = {name: counts.most_common(1)[0][0] for name, counts in lengths.items() if counts}
        with closing(connect(self.settings)) as connection:
            catalogue = load_catalogue(connection, self.settings.features.max_text_length)
            snapshot_data = load_snapshot_data(connection, "select", catalogue)
        profiles = self.settings.profiles.model_copy(update=most_common)
        users, items = write_profiles(snapshot_data, item_terms(catalogue), profiles)

        def unflagged(ids: Sequence[str], written: WrittenProfiles) -> dict[str, str]:
            rows = zip(ids, written.texts, written.flags, strict=True)
            return {entity: text for entity, text, flag in rows if not flag}

        return Teacher(
            {
                ("user", "select"): unflagged(snapshot_data.user_ids, users),
                ("item", "select"): unflagged(catalogue.item_ids, items),
            }
        )

    def _item_texts(self) -> list[str]:
        from reclm.warehouse.reading import connect

        with closing(connect(self.settings)) as connection:
            rows = connection.execute(
                "select line, text from fct_item_prompts where snapshot = 'select' order by item_id"
            )
            return [" | ".join(filter(None, row)) for row in rows.fetchall()]

    def tuned_model(self) -> Artifact:
        """Tune the base model on two-turn dialogues."""
        from reclm.llm.tuning.sft import write_sft

        return write_sft(self.settings, self.dialogues, self.teacher[1], self.base_model(), self.parents)

    def reward_model(self) -> Artifact:
        """Train the reward model. Raises WorkspaceError when there is no tuned model of the current warehouse."""
        from reclm.llm.reward.stage import write_reward

        return write_reward(self.settings, self.dialogues, self.teacher[1], self.current_model("sft"), self.parents)

    def refined_model(self) -> Artifact:
        """Refine the tuned model against the reward model. Raises WorkspaceError when one of them is missing."""
        from reclm.llm.tuning.refine import write_refine

        sft, reward = self.current_model("sft"), self.current_model("reward")
        return write_refine(self.settings, self.dialogues, self.teacher[1], sft, reward, self.parents)

    def current_model(self, kind: str) -> Artifact:
        """Return the model of that kind made from the current teacher and warehouse; the settings' own comes first.

        Raises WorkspaceError when there is none.
        """
        from reclm.llm.lineage import COMMANDS, preferred

        found = [
            a
            for a in artifacts.all_of(self.settings.paths, kind)
            if self.parents.items() <= a.manifest["parents"].items()
        ]
        if not found:
            raise WorkspaceError(
                f"{self.settings.paths.root} holds no {kind} model of the current warehouse and teacher; run "
                f"`{COMMANDS[kind]}` first"
            )
        return preferred(self.settings, found, self.parents["warehouse"])
