"""Check the off-policy estimate against demo shops, whose truth is known.

Each simulation makes a shop, answers requests of its users from item-kNN with exploration, draws clicks from the
shop's truth, and estimates from that log what models would earn that were never shown. Prints one JSON object per
model: in how many simulations the 95 % interval held the true click rate, and how wide it was.

    python benchmarks/off_policy.py --simulations 100 --users 200 --items 60 --requests 3000 --share 0.3 --pool 60
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict

from reclm.progress import track
from reclm.settings.data import DemoSettings
from reclm.trials.simulation import Outcome, simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("simulations", 20), ("users", 200), ("items", 60), ("requests", 3000), ("pool", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--share", type=float, default=0.3)
    given = parser.parse_args()
    demo = DemoSettings(users=given.users, items=given.items, interactions=given.users * 20)
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for seed in track(range(given.simulations), "simulations"):
        for outcome in simulate(demo, seed, n_requests=given.requests, share=given.share, pool=given.pool):
            outcomes[outcome.model].append(outcome)
    for model, found in outcomes.items():
        estimates = [outcome.estimate for outcome in found if outcome.estimate]
        report = {
            "model": model,
            "covered": sum(outcome.covered for outcome in found),
            "estimated": len(estimates),
            "refused": len(found) - len(estimates),
            "true_click_rate": round(sum(outcome.truth for outcome in found) / len(found), 4),
        }
        if estimates:
            report["estimate"] = round(sum(one.value for one in estimates) / len(estimates), 4)
            report["width"] = round(sum(one.hi - one.lo for one in estimates) / len(estimates), 4)
        print(json.dumps(report | {"refusal": next((one.refusal for one in found if one.refusal), "")}))


if __name__ == "__main__":
    main()
