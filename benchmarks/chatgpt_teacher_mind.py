"""How well the small model learns from a real teacher: ChatGPT's profiles, as published with RecLM for MIND.

    python benchmarks/chatgpt_teacher_mind.py --data FOLDER --workspace DIR [--set key=value]...

FOLDER holds the published files as parquet, `teacher_user_profiles` and `teacher_item_profiles` among them. Users and items
are held out by history and by text, so that no prompt measured was seen in training. Printed are format, similarity to the
own teacher's profile less that to others', the same for a neighbour's profile copied, and the share of distinct profiles.
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
    parser.add_argument("--workspace", required=True, help="folder to work in; what stands there is reused")
    parser.add_argument("--set", action="append", default=[], help="more settings, after those of this benchmark")
    given = parser.parse_args()
    flags = [f"teacher.table={given.data}", *SETTINGS, *given.set]
    reclm = [sys.executable, "-m", "reclm.cli"]
    subprocess.run([*reclm, "ingest", "--data", given.data, "-w", given.workspace], check=True)
    subprocess.run([*reclm, "build", "--phase", "features", "-w", given.workspace], check=True)
    subprocess.run([*reclm, "tune", "-w", given.workspace, *(w for f in flags for w in ("--set", f))], check=True)


if __name__ == "__main__":
    main()
