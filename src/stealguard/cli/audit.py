"""`stealguard audit`."""

from __future__ import annotations

from pathlib import Path

from stealguard.cli.options import Json, Many, Numbers, Settings, settings, use_threads
from stealguard.cli.printing import print_rows


def audit(
    victim: str,
    *,
    suite: str | None = None,
    attack: str = "knockoff",
    budget: Numbers = None,
    set_: Settings = None,
    pools: Many = None,
    labels: Many = None,
    treatments: Many = None,
    own: Numbers = None,
    seeds: Numbers = None,
    clone: str | None = None,
    data: str | None = None,
    net: str | None = None,
    defense: str | None = None,
    resize: bool = False,
    store: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    json_: Json = False,
) -> None:
    """Steal a model in every way that is asked for, and measure each clone.

    Parameters
    ----------
    victim
        What is attacked: a release folder, module:callable of your own, or an ONNX file.
    suite
        Many attacks at once, by name (quick, standard, full), instead of attack, budget, labels, treatments and own.
    attack
        What the attacker does: a name that `stealguard list attacks` shows, or module:Class of your own.
    budget
        How many answers the attacker may have; several for a curve.
    set_
        Settings of the attack, KEY=VALUE ... (training.epochs=50, for example).
    pools
        Sets that the attacker queries with, own:N (near N task samples), or nothing (for data-free attacks).
    labels
        soft, hard or both.
    treatments
        What the attacker does with the answers before training on them: sharpen, z-score, debias, confident, smooth,
        top-1, d-dae, p-bayes; joined by + for one after the other.
    own
        How many labelled task samples the attacker has, to fine-tune the clone on.
    seeds
        One clone for each.
    clone
        The clone's architecture, a name or module:callable; the victim's own unless told otherwise.
    data
        The task, where the victim does not name it.
    net
        The module:callable of the protected network, where it is your own.
    defense
        The module:Class of the release's defense, where it is your own.
    resize
        Fit pools of another shape to the victim's inputs.
    store
        The SQLite file for the rows; audit.sqlite in the release folder unless told otherwise.
    device
        A torch device; a GPU if there is one.
    threads
        Processor threads.
    json_
        Print the rows as JSON lines.
    """
    from stealguard.attacks import ATTACKS
    from stealguard.auditing import audit as run
    from stealguard.settings import create

    use_threads(threads)
    attacks = suite or [create(ATTACKS, attack, settings(set_, "set"), "attack")]
    rows = run(
        victim, attacks, pools, labels or ["soft", "hard"], budgets=budget or [], treatments=treatments or [""],
        own=own or [0], seeds=seeds or [0], clone=clone, data=data, net=net, defense=defense, resize=resize,
        store=store, device=device,
    )  # fmt: skip
    print_rows(rows, as_json=json_)
