"""The version of reclm, and the layout numbers that tell which stored data it still reads and takes over.

A release alone changes neither: what was made before stays usable until a number here is raised.
"""

from collections.abc import Mapping

VERSION = "0.2.0"
LAYOUT = 4
"""What a workspace's files are called and hold; `dataset.json` records it. Raise it when older ones cannot be read, and
add the step to `reclm/storage/migrations.py`."""
OLDEST_LAYOUT = 3
"""The oldest layout that `reclm migrate` brings to the current one."""

ARTIFACT_LAYOUTS: Mapping[str, int] = {
    "weights": 1,  # the same GGUF file would give other weights
    "teacher": 1,  # other example profiles would be written from the same tables
    "base": 1,  # another base model would be trained from the same texts
    "sft": 1,  # another model would be tuned on the same dialogues, or its folder holds something else
    "reward": 1,  # another reward model would be trained on the same pairs
    "refine": 1,  # another model would come out of the same refinement
    "profiles": 3,  # the same prompts would be answered otherwise, or a profile has other columns
    "embeddings": 1,  # the same text would get another vector, or a vector has other columns
    "backbone": 13,  # the same features would give another model, or its folder or metrics hold something else
    "baselines": 1,  # the same data would give other validation figures
    "served": 13,  # the same model would be fitted otherwise on everything known, or its folder holds something else
    "evaluation": 2,  # the same models would get other figures
    "ablation": 1,  # the same writers would be compared otherwise
    "promotion": 1,  # the same candidates would be decided on otherwise, or a decision has other columns
    "health": 1,  # the same tables would be checked otherwise
}
"""{artifact kind: layout}, part of every artifact's version. Raise a number when what its line says has become true:
the artifacts of that kind, and those made from them, are then made again. Older ones stay readable."""
