"""`stealguard audit`."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from stealguard.cli.options import Json, Many, Numbers, Settings, numbers, settings, use_threads
from stealguard.cli.printing import exit_if_failed, one_line_warning, print_rows

if TYPE_CHECKING:
    from stealguard.auditing.remote import Remote
    from stealguard.results.row import Row
    from stealguard.results.rows import Rows

KEY = "STEALGUARD_KEY"
URL = ("http://", "https://")


def audit(
    victim: str,
    *,
    suite: str | None = None,
    attack: str | None = None,
    budget: Numbers = None,
    set_: Settings = None,
    pools: Many = None,
    labels: Many = None,
    treatments: Many = None,
    own: Numbers = None,
    accounts: Numbers = None,
    accounts_to_reach: float | None = None,
    seeds: Numbers = None,
    clone: str | None = None,
    data: str | None = None,
    size: int | None = None,
    fit: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    weights: Path | None = None,
    net: str | None = None,
    defense: str | None = None,
    resize: bool = False,
    store: Path | None = None,
    device: str | None = None,
    deterministic: bool = False,
    threads: int | None = None,
    workers: int = 1,
    i_own_this: Annotated[bool, Parameter(negative="")] = False,
    key_env: str | None = None,
    key_file: Path | None = None,
    rows: int | None = None,
    parallel: int | None = None,
    output: str | None = None,
    json_: Json = False,
) -> None:
    """Steal a model in every way that is asked for, and measure each clone; exit status 1 if some of it failed.

    Parameters
    ----------
    victim
        What is attacked: a release folder, module:callable of your own, an ONNX file, or the URL of a model behind a
        server that speaks the Open Inference Protocol (https://HOST/v2/models/NAME).
    suite
        Many attacks at once, by name (quick, adaptive, standard, full), instead of attack, set, budget, labels,
        treatments and own. The accounts of its adaptive attacks are 1, 10, 100 and 1,000 unless told otherwise.
    attack
        What the attacker does: knockoff (unless told otherwise), knockoff-adaptive, copycat, sieve, filter, unmask,
        explore, own-form, cover, refusals, active-thief, marich, dissector, jbda, jbda-tr, dfme, maze, disguide or
        dfms-hl (`stealguard list attacks` has a line on each), or module:Class of your own.
    budget
        How many answers the attacker may have; several for a curve. Short for --set budget=N.
    set_
        Settings of the attack, KEY=VALUE ... (training.epochs=50, for example).
    pools
        Sets that the attacker queries with, own:N (near N task samples), or nothing (for dfme, maze, disguide and
        dfms-hl, which make their own queries). Printed digits (the set digits) are what anyone can query who knows that
        the task is about digits.
    labels
        soft (answers as they are), hard (the most probable class alone), or both words; both unless told otherwise.
    treatments
        What the attacker does with the answers before training on them: sharpen, z-score, debias, confident, smooth,
        top-1, d-dae, p-bayes; joined by + for one after the other.
    own
        How many labeled task samples the attacker has, to fine-tune the clone on; N where the pool is own:N and that is
        more.
    accounts
        Over how many accounts of the victim the budget is divided; several for a curve. Unless told otherwise 1, or all
        keys of --key-file. `refusals` opens so many at most.
    accounts_to_reach
        Search the smallest number of accounts with which clone accuracy, in percent, is reached (80, for example).
    seeds
        One clone for each.
    clone
        The clone's architecture, a name or module:callable; the victim's own unless told otherwise.
    data
        The task, where the victim does not name it.
    size
        For a model of your own: the pixels of a side that pictures of all sizes in the data are brought to. A release
        tells this itself, as it does the next four.
    fit
        How: crop (the center, as usual), pad or stretch.
    mean
        What is subtracted from the inputs of module:callable, which are in [0, 1]: one number, or one a channel.
    std
        What they are divided by then.
    weights
        A file with the weights of module:callable: a state_dict in .pt, or safetensors.
    net
        The module:callable of the protected network, where it is your own.
    defense
        The module:Class of the release's defense, where it is your own.
    resize
        Fit pools of another shape to the victim's inputs.
    store
        The SQLite file for the rows, which `stealguard report` reads; audit.sqlite in the release folder unless told
        otherwise, and for any other model runs/audit-NAME/audit.sqlite.
    device
        A torch device; a GPU if there is one.
    deterministic
        On a GPU, give the same bits in every run; this is slower.
    threads
        Processor threads, which the workers share.
    workers
        Processes that steal at the same time.
    i_own_this
        The model behind the URL is yours, or its owner has asked you to attack it. Without this no URL is audited.
    key_env
        The environment variable that holds the key for the URL; STEALGUARD_KEY unless told otherwise.
    key_file
        A file with the keys of the attacker's accounts, one a line: a theft divides its budget over all of them, or
        over as many as --accounts says. The key of the environment, or else the first of these, asks for the answers to
        the test inputs.
    rows
        Inputs in one request to the URL, at most; what the server tells, or 64.
    parallel
        Requests to the URL at a time; 1 unless told otherwise.
    output
        The output of the model behind the URL that holds the answers, where it has several.
    json_
        Print the rows as JSON lines.
    """
    from stealguard.attacks import ATTACKS
    from stealguard.auditing import audit as run
    from stealguard.auditing.suites import SUITES
    from stealguard.devices import choose, repeatable
    from stealguard.errors import pick, require
    from stealguard.results.honest import PoorAnswers
    from stealguard.settings import create

    use_threads(threads)
    if suite is not None:
        pick(SUITES, suite, "suite")
    remote = _Remote(key_env, key_file, rows, parallel, output)
    target: Any = remote.victim(victim, owned=i_own_this) if victim.startswith(URL) else victim
    unused = target is not victim or remote == _Remote()
    require(unused, "victim", "a URL, where options for URLs are given", f"`{victim}`")
    task: Any = data
    if any(option is not None for option in (size, fit, mean, std, weights)):
        from stealguard.auditing.brought import brought

        statistics = {"mean": numbers(mean, "mean"), "std": numbers(std, "std")}
        target, task = brought(target, data, size=size, fit=fit, weights=weights, **statistics)
    if suite:
        for name, option in ("attack", attack), ("set", set_):
            require(option is None, name, f"left out: the suite `{suite}` chooses the attacks", option)
    chosen = settings(set_, "set")
    require(budget is None or "budget" not in chosen, "budget", "given once: by itself or with `--set`", budget)
    attacks = suite or [create(ATTACKS, attack or "knockoff", chosen, "attack")]
    given: dict[str, Any] = {
        "attacks": attacks, "pools": pools, "labels": labels, "budgets": budget or [], "treatments": treatments,
        "own": own, "seeds": seeds or [0], "clone": clone, "data": task, "net": net, "defense": defense,
        "resize": resize, "store": store, "device": choose(device),
    }  # fmt: skip
    with repeatable(deterministic), warnings.catch_warnings():
        warnings.simplefilter("default", PoorAnswers)  # once, where a search audits several times
        warnings.showwarning = one_line_warning
        if accounts_to_reach is None:
            found = run(target, accounts=accounts, workers=workers, **given)
        else:
            rule = "in (0, 100], in percent"
            require(0 < accounts_to_reach <= 100, "accounts-to-reach", rule, accounts_to_reach)
            require(workers == 1, "workers", "1 where a number is searched for", workers)
            require(accounts is None, "accounts", "left out where their number is searched for", accounts)
            found = _searched(target, accounts_to_reach, given)
    print_rows(found, as_json=json_)
    print(_next(store, victim, found[0].victim.name), file=sys.stderr)
    exit_if_failed(found)


def _next(store: Path | None, victim: str, name: str) -> str:
    """Where the rows are, and the command that makes a page of them."""
    from stealguard.auditing.run import home
    from stealguard.results import STORE

    release = Path(victim).is_dir()
    kept = store or (Path(victim) if release else home(name)) / STORE
    source = victim if release and store is None else kept
    return f"rows: {kept}; next: stealguard report {shlex.quote(str(source))} --out report.html"


@dataclass(frozen=True)
class _Remote:
    """What the options say about a model behind a URL."""

    key_env: str | None = None
    key_file: Path | None = None
    rows: int | None = None
    parallel: int | None = None
    output: str | None = None

    def victim(self, url: str, *, owned: bool) -> Remote:
        """The model, with the keys of the environment and of the file."""
        from stealguard.auditing import Remote
        from stealguard.errors import require

        require(owned, "i-own-this", "given to audit a URL: an audit attacks the model", f"`{url}` without it")
        key = os.environ.get(self.key_env or KEY, "")
        require(bool(key) or self.key_env is None, "key-env", "the name of a variable that is set", f"`{self.key_env}`")
        keys = self.key_file.read_text(encoding="utf-8").split() if self.key_file else []
        require(bool(keys) or self.key_file is None, "key-file", "a file with a key", f"none in `{self.key_file}`")
        parallel = 1 if self.parallel is None else self.parallel
        return Remote(url, key, keys=keys, rows=self.rows, parallel=parallel, output=self.output or "")


def _searched(victim: str | Remote, percent: float, given: dict[str, Any]) -> Rows:
    """The rows of a search for the number of accounts, each told when it is known, and the number at the end."""
    from stealguard.auditing import accounts_to_reach
    from stealguard.auditing.accounts import tell
    from stealguard.results import Rows

    rows = Rows()

    def show(row: Row) -> None:
        rows.append(row)
        tell(row)

    found = accounts_to_reach(victim, percent / 100, show=show, **given)
    number = "more than were tried" if found is None else f"{found:,}, the smallest number tried"
    print(f"accounts needed for {percent:g} %: {number}", file=sys.stderr)
    return rows
