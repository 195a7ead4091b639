"""How well the small model learns from a real teacher: ChatGPT's profiles, as published with RecLM for MIND.

    python benchmarks/chatgpt_teacher_mind.py --data FOLDER --workspace DIR [--set key=value]...

FOLDER holds the published files as parquet, with `teacher_user_profiles` and `teacher_item_profiles`. Users and items
are held out by history and by text, so that no measured prompt was used in training. Prints the share of well-formed
answers, the similarity to the own teacher's profile minus that to others', the same for a copied neighbour's profile,
and the share of distinct profiles.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

SETTINGS = (
    "teacher.engine=table",
    "llm.neighbours=0",
    "llm.tiny_tokens=2000000",
    "llm.tiny_vocabulary=4096",
    "tune.epochs=2",
    "tune.batch_size=8",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the published files")
    parser.add_argument("--workspace", required=True, help="folder to work in; finished artifacts in it are reused")
    parser.add_argument("--set", action="append", default=[], help="more settings, after those of this benchmark")
    arguments = parser.parse_args()
    flags = [f"teacher.table={arguments.data}", *SETTINGS, *arguments.set]
    reclm = [sys.executable, "-m", "reclm.cli"]
    subprocess.run([*reclm, "ingest", "--data", arguments.data, "-w", arguments.workspace], check=True)
    subprocess.run([*reclm, "build", "--phase", "features", "-w", arguments.workspace], check=True)
    subprocess.run([*reclm, "tune", "-w", arguments.workspace, *(w for f in flags for w in ("--set", f))], check=True)


if __name__ == "__main__":
    main()
