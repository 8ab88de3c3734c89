"""What refusals tell: the attack `refusals` against releases, with several numbers of accounts.

    python -m benchmarks.refusals RELEASE... --accounts 100 1000 --pool letters --out FILE.jsonl

An audit makes the same attack; a line here has also what each of its steps took. The victim's answers are soft, and the
attack reads classes alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.adaptive import judged, pool
from torch import Tensor, nn

import stealguard as sg
from stealguard.attacks import Refusals
from stealguard.attacks.refusals import Knowledge
from stealguard.boxes import AccountsInTurn
from stealguard.nets import build
from stealguard.results.provenance import provenance
from stealguard.seeds import derive, seeded


def steal(
    release: sg.Release, images: Tensor, most: int, attack: Refusals, seed: int, device: str
) -> tuple[nn.Module, dict[str, Any]]:
    """A clone by at most `most` accounts, and what was spent."""
    box = AccountsInTurn(lambda number: release.connect(f"account {number}"), most, attack.budget, "release")
    clone = build(release.recipe["net"], images[:2000], release.output.classes, seed=derive(seed, "clone")).to(device)
    with seeded(seed):
        known = Knowledge(attack, box, images, clone, seed)
        known.test_at_random()
        told: dict[str, Any] = {"accounts_random": box.opened}
        known.test_likely()
        told |= {"inliers": len(known.inliers), "accounts_tests": box.opened, "queries_tests": box.spent}
        known.explore()
        told |= {"explored": len(known.explored), "queries": box.spent, "accounts_spent": box.opened,
                 "classes": known.classes.bincount(minlength=release.output.classes).tolist()}  # fmt: skip
        return known.learned(clone), told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", type=Path)
    parser.add_argument("--accounts", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--pool", default="letters")
    parser.add_argument("--covers", type=int, default=5, help="known inliers between two explored queries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where nets are trained and asked")
    parser.add_argument("--out", type=Path, required=True, help="lines are added")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for path in given.releases:
        for most in given.accounts:
            started, seed = time.process_time(), derive(given.seed, path.name, given.pool, most)
            release = sg.load(path, device=given.device)
            task = release.recipe["data"]["name"]
            told = {name: (release.recipe.get("honest") or {}).get(name) for name in ("served", "alone")}
            clone, spent = steal(
                release, pool(given.pool, task), most, Refusals(covers=given.covers), seed, given.device
            )
            line = {"measurement": "refusals", "victim": path.name, "task": task, "pool_name": given.pool,
                    "accounts": most, "covers": given.covers, "seed": given.seed, **judged(clone, task), **told,
                    **spent, "cpu_seconds": time.process_time() - started, "provenance": provenance()}  # fmt: skip
            with given.out.open("a", encoding="utf-8") as file:
                print(json.dumps(line), file=file)
            print({k: v for k, v in line.items() if k != "provenance"}, flush=True)


if __name__ == "__main__":
    main()
