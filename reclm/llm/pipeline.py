"""The line from a warehouse to a language model that writes profiles: teacher, base, tuned, reward, refined.

Each link is made from the one before it or found standing. All of them learn from snapshot `select` alone, so what they
write at either snapshot knows nothing that the snapshot does not; and what the teacher said of held-out users and items
is in no prompt, no corpus and no answer that anything is trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from reclm.errors import ArtifactError, WorkspaceError
from reclm.llm.models.training_cutoff import CUTOFF_KEY
from reclm.llm.prompts.dialogues import Dialogue
from reclm.storage import artifacts
from reclm.storage.artifacts import Artifact

if TYPE_CHECKING:
    from reclm.llm.teacher.stage import Teacher
    from reclm.settings.tree import Settings

LEAST_LESSONS = 50
"""Train dialogues with a teacher's profile under which a language model learns nothing worth having."""
LEAST_WATCHED = 2
"""Held-out ones of a kind, to measure tuning and watch refinement by."""
COMMANDS = {"teacher": "reclm tune", "base": "reclm tune", "sft": "reclm tune", "reward": "reclm reward"}


@dataclass
class Chain:
    """What the links share, read when first needed."""

    settings: Settings

    @cached_property
    def teacher(self) -> tuple[Artifact, Teacher]:
        """The teacher's artifact and its words, written now if need be."""
        from reclm.llm.teacher.stage import load_teacher, write_teacher

        artifact = write_teacher(self.settings)
        if artifact is None:
            raise ArtifactError("the teacher wrote nothing")
        return artifact, load_teacher(self.settings, artifact)

    @cached_property
    def dialogues(self) -> list[Dialogue]:
        """Every dialogue, those of held-out entities too; no prompt shows what was said of held-out items' audiences."""
        from reclm.llm.prompts.facts import load_dialogues
        from reclm.warehouse.reading import connect

        _, teacher = self.teacher
        with closing(connect(self.settings)) as connection:
            rows = connection.execute(
                "select distinct item_id from fct_item_dialogues where fold = 'held_out'"
            ).fetchall()
            unspoken = {row[0] for row in rows}
            return load_dialogues(connection, lambda item: "" if item in unspoken else teacher.interests(item))

    @cached_property
    def parents(self) -> dict[str, str]:
        from reclm.warehouse.reading import warehouse_fingerprint

        return {"teacher": self.teacher[0].version, "warehouse": warehouse_fingerprint(self.settings.paths)}

    def too_little(self) -> str:
        """Why there is too little to learn from, '' when there is enough."""
        from reclm.llm.tuning.heldout import KINDS, sample

        _, teacher = self.teacher
        lessons = sum(d.fold == "train" and teacher.of(d.kind, d.entity_id) is not None for d in self.dialogues)
        watched = max(len(sample(self.dialogues, teacher, kind, LEAST_WATCHED, self.settings.seed)) for kind in KINDS)
        if lessons >= LEAST_LESSONS and watched >= LEAST_WATCHED:
            return ""
        return (
            f"the teacher wrote of {lessons} users and items to learn from and {watched} to measure by; "
            f"{LEAST_LESSONS} and {LEAST_WATCHED} are the least. It writes of users with a few picks that have something "
            "in common, and of items with texts and a few readers"
        )

    def base(self) -> Artifact:
        """The base model, trained from scratch on the train fold's conversations and the items' texts, or pinned.

        Raises WorkspaceError when there is too little to learn from, before anything is trained.
        """
        if reason := self.too_little():
            raise WorkspaceError(f"{reason}; bring a longer log, or set profiles.engine to 'extractive'")
        from reclm.llm.models.base import shape_of, write_base
        from reclm.llm.prompts.corpus import Corpus, corpus

        def documents() -> Corpus:
            practices = self.settings.llm.practices if self.settings.teacher.engine != "extractive" else 0
            found = corpus(
                self.dialogues,
                self.teacher[1],
                shape_of(self.settings),
                self._texts(),
                self._practice() if practices else None,
                practices,
            )
            return replace(found, knows=self.teacher[0].metrics.get(CUTOFF_KEY, {}))

        return write_base(self.settings, documents)

    def _practice(self) -> Teacher:
        """What the keyword engine says at `select` of everybody of whom anything is known, of users in as many phrases as
        the teacher mostly does."""
        from reclm.llm.teacher.stage import Teacher
        from reclm.profiles import grammar
        from reclm.profiles.keywords import Written, write_profiles
        from reclm.profiles.snapshot_data import load_catalogue, load_snapshot_data
        from reclm.profiles.terms import item_terms
        from reclm.warehouse.reading import connect

        learned = {d.entity_id for d in self.dialogues if (d.kind, d.fold) == ("user", "train")}
        said = [text for user, text in self.teacher[1].profiles["user", "select"].items() if user in learned]
        parsed = [profile for text in said if (profile := grammar.parse(text).profile)]
        wanted = {
            "identities": Counter(min(len(profile.identity), 10) for profile in parsed),
            "interests": Counter(len(profile.interests) for profile in parsed),
        }
        usual = {name: counts.most_common(1)[0][0] for name, counts in wanted.items() if counts}
        with closing(connect(self.settings)) as connection:
            catalogue = load_catalogue(connection, self.settings.features.max_text_length)
            knowledge = load_snapshot_data(connection, "select", catalogue)
        profiles = self.settings.profiles.model_copy(update=usual)
        users, items = write_profiles(knowledge, item_terms(catalogue), profiles)

        def said_by(ids: Sequence[str], written: Written) -> dict[str, str]:
            rows = zip(ids, written.texts, written.flags, strict=True)
            return {entity: text for entity, text, flag in rows if not flag}

        return Teacher(
            {
                ("user", "select"): said_by(knowledge.user_ids, users),
                ("item", "select"): said_by(catalogue.item_ids, items),
            }
        )

    def _texts(self) -> list[str]:
        from reclm.warehouse.reading import connect

        with closing(connect(self.settings)) as connection:
            rows = connection.execute(
                "select line, text from fct_item_prompts where snapshot = 'select' order by item_id"
            )
            return [" | ".join(filter(None, row)) for row in rows.fetchall()]

    def tuned(self) -> Artifact:
        """The base model tuned on two-turn dialogues."""
        from reclm.llm.tuning.sft import write_sft

        return write_sft(self.settings, self.dialogues, self.teacher[1], self.base(), self.parents)

    def rewarded(self) -> Artifact:
        """The reward model. Raises WorkspaceError when there is no tuned model of this warehouse."""
        from reclm.llm.reward.stage import write_reward

        return write_reward(self.settings, self.dialogues, self.teacher[1], self.standing("sft"), self.parents)

    def refined(self) -> Artifact:
        """The tuned model refined against the reward model. Raises WorkspaceError when one of them is missing."""
        from reclm.llm.tuning.refine import write_refine

        sft, reward = self.standing("sft"), self.standing("reward")
        return write_refine(self.settings, self.dialogues, self.teacher[1], sft, reward, self.parents)

    def standing(self, kind: str) -> Artifact:
        """The artifact of that kind whose teacher and warehouse are the current ones, the settings' own before newer others."""
        from reclm.llm.lineage import preferred

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
