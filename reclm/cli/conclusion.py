"""Say in two sentences what a run found.

In: an `evaluation` artifact and the champion. Out: the two sentences. The first says which model is champion and how it
compares with simple baselines, on known (warm), on new (cold) and on all items. The second says whether profiles help
beyond no profiles, as RecLM (arXiv 2412.19302) compares, and beyond the control, the same model with the profiles
shuffled among users and items, which removes the effect of more parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from reclm.evaluation.verdicts import profiles_verdict
from reclm.storage.schemas import EVALUATION

if TYPE_CHECKING:
    from reclm.storage.artifacts import Artifact

METRIC = "recall"
USUAL_K = 20
SETTING_LABELS = {"full_shot": "warm", "zero_shot": "cold", "mixed": "all"}
EASE = ("EASE", ("ease", "ease_tuned"))
TEXT = ("best from texts", ("content_cosine", "content_knn", "content_knn_tuned", "ridge", "ridge_tuned"))
BASELINES = {
    "full_shot": (("popularity", ("popularity",)), EASE),
    "zero_shot": (("predicted popularity", ("predicted_popularity",)), TEXT),
    "mixed": (("popularity", ("popularity",)), EASE, TEXT),
}
"""{setting: (what to call a group of baselines, the group)}; the best of a group is shown."""
WRITTEN_AS = {"base": "without profiles", "augment": "with profiles", "shuffled": "with shuffled profiles"}
CONTROLS = {"base", "shuffled"}
IN_WORDS = {
    "yes": "better than both",
    "not content": "better than none, not than shuffled ones",
    "worse": "worse than none",
    "unclear": "no clear difference",
}
VERDICTS = {
    (True, False): "profiles help on this data",
    (False, True): "profiles hurt on this data",
    (True, True): "profiles help in some settings and hurt in others on this data",
    (False, False): "profiles bring no proven gain on this data",
}


def conclusion(evaluation: Artifact, champion: Mapping[str, Any] | None) -> str:
    """Return two sentences on an evaluation; `champion` is the content of champion.json, None without a champion."""
    if champion is None:
        return "No model became champion; `reclm champion` says why."
    results = pq.read_table(evaluation.path / "results.parquet", schema=EVALUATION["results"]).to_pylist()
    k = _shown_k(results)
    chosen = f"{champion['model']} {WRITTEN_AS[champion['variant']]}"
    compared = [text for setting in SETTING_LABELS if (text := _beside_baselines(results, champion, setting, k))]
    first = f"The champion is {chosen}" + (f". Its Recall@{k}: {'; '.join(compared)}" if compared else "") + "."
    return f"{first}\n{_profiles_sentence(evaluation, champion, k)}"


def _profiles_sentence(evaluation: Artifact, champion: Mapping[str, Any], k: int) -> str:
    """Say what profiles gain the champion's model over no profiles and over shuffled ones, in each setting."""
    wanted = {"model": champion["model"], "variant": "augment", "other_model": champion["model"]}
    wanted |= {"metric": METRIC, "k": k, "seed": champion["seed"]}
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in pq.read_table(evaluation.path / "comparisons.parquet", schema=EVALUATION["comparisons"]).to_pylist():
        if all(row[name] == value for name, value in wanted.items()):
            rows.setdefault(row["setting"], {})[row["other_variant"]] = row
    measured = {setting: rows[setting] for setting in SETTING_LABELS if rows.get(setting, {}).keys() >= CONTROLS}
    if not measured:
        return "Whether profiles help was not measured: that needs item texts and all of train.variants."
    found = {setting: profiles_verdict(pair) for setting, pair in measured.items()}
    listed = "; ".join(
        f"{SETTING_LABELS[setting]} {pair['base']['diff']:+.4f} against none and {pair['shuffled']['diff']:+.4f} "
        f"against shuffled ones ({IN_WORDS[found[setting]]})"
        for setting, pair in measured.items()
    )
    verdict = VERDICTS["yes" in found.values(), "worse" in found.values()]
    return f"Profiles, Recall@{k} of {champion['model']}: {listed}. By 95 % intervals over users and items, {verdict}."


def _shown_k(results: list[dict[str, Any]]) -> int:
    ks = sorted({int(row["k"]) for row in results})
    return USUAL_K if USUAL_K in ks else ks[-1]


def _beside_baselines(results: list[dict[str, Any]], champion: Mapping[str, Any], setting: str, k: int) -> str:
    own = _value(results, setting, k, champion["model"], champion["variant"])
    if own is None:
        return ""
    baselines = [
        f"{label} {max(values):.4f}"
        for label, names in BASELINES[setting]
        if (values := [v for name in names if (v := _value(results, setting, k, name, "baseline")) is not None])
    ]
    beside = f" ({', '.join(baselines)})" if baselines else ""
    return f"{SETTING_LABELS[setting]} items {own:.4f}{beside}"


def _value(results: list[dict[str, Any]], setting: str, k: int, model: str, variant: str) -> float | None:
    """Return the mean over seeds, None when the model was not measured."""
    wanted = (setting, k, model, variant, METRIC)
    values = [
        row["value"]
        for row in results
        if (row["setting"], row["k"], row["model"], row["variant"], row["metric"]) == wanted
    ]
    return sum(values) / len(values) if values else None
