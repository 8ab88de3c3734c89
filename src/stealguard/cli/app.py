"""The command line: thin, in the same words as the Python API. Torch is loaded by the commands that need it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from stealguard import __version__
from stealguard.errors import Invalid, StealguardError, pick, require

if TYPE_CHECKING:
    from stealguard.results.row import Row

app = App(
    name="stealguard",
    version=__version__,
    help="Protect classifiers against model stealing, and audit them.",
    suppress_keyboard_interrupt=False,
)
data_app = App(name="data", help="Fetch, list and verify data sets.")
app.command(data_app)

Many = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Numbers = Annotated[list[int] | None, Parameter(consume_multiple=True)]
Settings = Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True)]


@app.command
def protect(
    net: str,
    data: str,
    *,
    out: Path,
    outliers: Many = None,
    defense: str = "ini-robust",
    set_: Settings = None,
    train: Many = None,
    epochs: int | None = None,
    seed: int = 0,
    start: str | None = None,
    resize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    threads: int | None = None,
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Train a defended classifier and write its release folder.

    Parameters
    ----------
    net
        A network's name (lenet5, resnet18, ...) or module:callable of your own.
    data
        The task: a set's name, folder:PATH or npz:PATH.
    out
        The release folder to write.
    outliers
        Sets that stand in for stealing queries; those of the task's shape if none are named.
    defense
        A preset: none, ini-robust, ini, ini-official-mnist, ...
    set_
        Settings of the defense, KEY=VALUE ...
    train
        Settings of the training, KEY=VALUE ... (lr, batch, momentum, weight_decay, schedule, augment, keep).
    epochs
        Passes over the task data.
    seed
        What the whole run follows from.
    start
        A release to start from: protects a model that is already trained.
    resize
        Fit outliers of another shape to the task's.
    resume
        Go on where an interrupted run stopped.
    overwrite
        Replace a release that is already there.
    device
        A torch device; a GPU if there is one.
    threads
        Processor threads.
    json_
        Print the recipe as JSON.
    """
    from stealguard.releases.presets import PRESETS
    from stealguard.releases.protection import protect as run
    from stealguard.settings import changed

    preset = pick(PRESETS, defense, "defense")
    _use_threads(threads)
    release = run(
        net, data, out=out, outliers=outliers,
        defense=changed(preset.defense, _settings(set_, "set"), f"defense {defense}"),
        training=changed(preset.training, _settings(train, "train"), "training"),
        epochs=epochs, seed=seed, start=start, resize=resize, resume=resume, overwrite=overwrite, device=device,
    )  # fmt: skip
    if json_:
        print(json.dumps(dict(release.recipe)))
    else:
        validation = release.recipe["history"][-1]["validation"]
        print(f"{out}: {100 * validation:.1f} % on the validation split, {release.recipe['seconds']:.0f} s")


@app.command
def audit(
    release: Path,
    *,
    suite: str | None = None,
    attack: str = "knockoff",
    budget: Numbers = None,
    set_: Settings = None,
    pools: Many = None,
    labels: Many = None,
    answers: Many = None,
    own: Numbers = None,
    seeds: Numbers = None,
    clone: str | None = None,
    data: str | None = None,
    net: str | None = None,
    resize: bool = False,
    store: Path | None = None,
    threads: int | None = None,
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Steal a release in every way asked for, and measure what the thief got.

    Parameters
    ----------
    release
        The release folder.
    suite
        Many attacks at once, by name (quick, standard, full), instead of attack, budget, labels, answers and own.
    attack
        What the thief does.
    budget
        How many answers it may have; several for a curve.
    set_
        Settings of the attack, KEY=VALUE ... (training.epochs=50, say).
    pools
        Sets the thief queries with, own:N (near N task samples), or nothing (for data-free attacks).
    labels
        soft, hard or both.
    answers
        What the thief does with the answers: sharpen, z-score, debias, confident, smooth, top-1, joined by +.
    own
        How many labelled task samples it fine-tunes on.
    seeds
        One thief for each.
    thief
        The clone's architecture; the victim's own unless told otherwise.
    data
        The task, where the release does not name it.
    net
        The module:callable of the protected network, where it is your own.
    resize
        Fit pools of another shape to the victim's inputs.
    store
        The SQLite file for the rows; audit.sqlite in the release folder unless told otherwise.
    threads
        Processor threads.
    json_
        Print the rows as JSON lines.
    """
    from stealguard.attacks import ATTACKS
    from stealguard.auditing.run import audit as run
    from stealguard.settings import create

    _use_threads(threads)
    attacks = suite or [create(ATTACKS, attack, _settings(set_, "set"), "attack")]
    rows = run(
        release, attacks, pools, labels or ["soft", "hard"], budgets=budget or [], answers=answers or [""],
        own=own or [0], seeds=seeds or [0], clone=clone, data=data, net=net, resize=resize, store=store,
    )  # fmt: skip
    _print_rows(rows, "json" if json_ else "table")


@app.command
def guard(release: Path, defense: str, *, out: Path, set_: Settings = None, overwrite: bool = False) -> None:
    """Put another guard before a release's weights, or answer more strictly with them, without training.

    Parameters
    ----------
    release
        The release folder.
    defense
        For a net that was trained as an undefended one is, the name of a defense that is a guard alone; for one with a
        defense trained into it, that defense, with other settings of those that training does not read.
    out
        The release folder to write.
    set_
        Settings of the defense, KEY=VALUE ...
    overwrite
        Replace a release that is already there.
    """
    from stealguard.defenses import DEFENSES
    from stealguard.releases.protection import guarded
    from stealguard.releases.release import load
    from stealguard.settings import create

    chosen = create(DEFENSES, defense, _settings(set_, "set"), "defense")
    print(guarded(load(release), chosen, out, overwrite=overwrite).folder)


@app.command
def compare(
    grid: Path,
    *,
    out: Path = Path("runs/compare"),
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Train and steal everything in a grid that is not done yet; exit status 1 if some of it failed.

    Parameters
    ----------
    grid
        A YAML file: data, nets, outliers, defenses, attacks, pools, labels, answers, own, budgets, seeds, ...
    out
        Where releases, rows and the page go; several grids may share it.
    engine
        Who does the work: local (processes of this machine), ray or slurm.
    workers
        How many cells at once.
    threads
        Processor threads of each.
    address
        The Ray cluster to join (auto, HOST:PORT), or submitit's cluster (slurm, local, debug).
    json_
        Print the rows as JSON lines.
    """
    from stealguard.comparing.run import compare as run
    from stealguard.report import write_html

    rows = run(grid, out, engine=engine, workers=workers, threads=threads, address=address)
    _print_rows(rows, "json" if json_ else "table")
    page = out / "report.html"
    write_html(rows, page, title=f"Grid {grid.stem}", command=" ".join(["stealguard", *sys.argv[1:]]))
    print(f"wrote {page}", file=sys.stderr)
    failed = [row for row in rows if row.status == "failed"]
    for reason in dict.fromkeys(f"{row.release} on {row.data}, {row.attack}: {row.reason}" for row in failed):
        print(f"failed: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(rows)} thefts failed; the same command tries them again", file=sys.stderr)
        sys.exit(1)


@app.command
def report(
    sources: list[Path], *, out: Path | None = None, format: str = "table", title: str = "How stealable is it?"
) -> None:
    """Print a table of audit rows, and write one self-contained page.

    Parameters
    ----------
    sources
        Release folders, SQLite stores or JSON-lines files.
    out
        The HTML file to write.
    format
        What to print: table, markdown, latex, csv or json (the last two: a record a cell).
    title
        The page's headline.
    """
    from stealguard.report import render, write_html
    from stealguard.results.row import read

    rows = [row for source in sources for row in read(source)]
    print(render(rows, format))
    if out is not None:
        write_html(rows, out, title=title, command=" ".join(["stealguard", *sys.argv[1:]]))
        print(f"wrote {out}", file=sys.stderr)


@app.command
def demo(*, out: Path = Path("runs/demo"), epochs: int = 16, threads: int | None = None) -> None:
    """MNIST, an undefended LeNet-5 beside a defended one, both stolen, ending in a page to open: a few minutes.

    Parameters
    ----------
    out
        Where releases and page go; what is already there is not done again.
    epochs
        Passes over the task data, for either net: half of the usual ones, so that one waits for minutes.
    threads
        Processor threads.
    """
    from stealguard.cli.demonstration import run

    _use_threads(threads)
    print(f"Open {run(out, epochs).resolve().as_uri()}")


@data_app.command(name="list")
def list_(*, json_: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """Every set, and whether the store has it."""
    from stealguard import data

    _print_states(data.listing(), json_)


@data_app.command
def get(names: list[str]) -> None:
    """Fetch or make sets, and keep them in the store.

    Parameters
    ----------
    names
        Which sets.
    """
    from stealguard import data

    for name in names:
        print(data.get(name))


@data_app.command
def verify(*, json_: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """Hash every stored set again; exit status 2 if one is damaged."""
    from stealguard import data

    found = data.verify()
    _print_states(found, json_)
    damaged = [state.name for state in found if not state.ok]
    require(not damaged, "store", "undamaged (delete the file and get the set again)", ", ".join(damaged))


def _print_states(states: list[Any], as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps([{**state._asdict(), "path": str(state.path)} for state in states]))
        return
    from stealguard.data import SETS

    table = Table("set", "what it is", "state", box=None, header_style="bold")
    for state in states:
        table.add_row(state.name, SETS[state.name].about, state.state)
    Console().print(table)


def _print_rows(rows: list[Row], format: str) -> None:
    from stealguard.report import render

    print("\n".join(json.dumps(asdict(row)) for row in rows) if format == "json" else render(rows, format))


def _settings(pairs: list[str] | None, parameter: str) -> dict[str, Any]:
    """`a=1 b.c=x` -> {"a": 1, "b": {"c": "x"}}; values are read as YAML."""
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        require(bool(key and equals), parameter, "KEY=VALUE", f"`{pair}`")
        *outer, last = key.split(".")
        inside = settings
        for name in outer:
            inside = inside.setdefault(name, {})
        try:
            inside[last] = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise Invalid(parameter, "KEY=VALUE with a plain value", f"`{pair}`") from e
    return settings


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        require(threads >= 1, "threads", "at least 1", threads)
        torch.set_num_threads(threads)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit status 2 for what a user can mend, with one line on stderr; 130 when interrupted."""
    try:
        app(arguments, exit_on_error=False)
    except CycloptsError:
        sys.exit(2)  # cyclopts has said what is wrong
    except StealguardError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; nothing that was finished is lost", file=sys.stderr)
        sys.exit(130)
