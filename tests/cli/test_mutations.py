"""The command line is fed several hundred mutated argument lists: one line and status 2, never a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stealguard.cli import main

# None of these trains or fetches anything, however it is mutated: the task is never there.
COMMANDS: list[list[str]] = [
    ["protect", "lenet5", "npz:{home}/none.npz", "--out", "{home}/out", "--defense", "ini", "--set", "gamma=0.1"],
    ["protect", "lenet5", "folder:{home}/none", "--out", "{home}/out", "--train", "lr=1e-3", "--epochs", "2"],
    ["protect", "own_methods:net", "{home}/none", "--out", "{home}/out", "--defense", "own_methods:Halves", "--json"],
    ["audit", "{home}/none", "--attack", "knockoff", "--budget", "10", "--pools", "own:5", "--labels", "soft"],
    ["audit", "{home}", "--attack", "own_methods:Lazy", "--set", "patience=2", "--seeds", "1", "2", "--own", "3"],
    ["audit", "{home}/text", "--suite", "quick", "--treatments", "top-1+smooth", "--device", "cpu", "--json"],
    ["guard", "{home}/none", "rounding", "--out", "{home}/out", "--set", "digits=1"],
    ["compare", "{home}/grid.yaml", "--out", "{home}/out", "--workers", "1", "--engine", "local", "--allow-code"],
    ["compare", "{home}/text", "--out", "{home}/out", "--gpus", "0", "--threads", "1"],
    ["report", "{home}/none", "{home}/text", "--out", "{home}/page.html", "--format", "csv"],
    ["report", "{home}/rows.jsonl", "--format", "json", "--out", "{home}/page.html", "--title", "x"],
    ["list", "attacks", "--json"],
    ["data", "list", "--json"],
    ["data", "get", "nothing"],
    ["demo", "--epochs", "many"],
]
WORDS = [
    "", "-", "--", "---", "=", "a=b", "--set", "--out", "--budget=-1", "-1", "0", "1e400", "9" * 5_000, "nan", "true",
    "[/x]", "[red]", "{}", "*", "~", "/", "/dev/null", "/dev/full", "/proc/self/mem", ".", "..", "x" * 5_000, "\udcff",
    "\U0001f600", "a\nb", "npz:", "npz:/", "folder:", "folder:/dev", "own:", "own:x", "module:", ":x", "..:x",
    "json:loads", "own_methods:Bare", "own_methods:nothing", "gamma=[", "gamma=!!int x", "gamma=&a [*a]",
    "a.b.c=1", "training=5", "levels=[a]", "budget=0", "budget=1e3", "cuda:99", "meta", "ini", "none", "quick", "hard",
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command with up to three of its words replaced, left out or doubled, or with others put between them."""
    words = list(draw(st.sampled_from(COMMANDS)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(1, len(words)))
        match draw(st.sampled_from(["replace", "leave out", "double", "insert"])):
            case "replace":
                words[place : place + 1] = [draw(TEXT)]
            case "leave out":
                words[place : place + 1] = []
            case "double":
                words[place:place] = words[place : place + 1]
            case _:
                words.insert(place, draw(TEXT))
    return words


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mutations")
    (folder / "text").write_text("neither YAML: [ nor rows")
    (folder / "grid.yaml").write_text("data: npz:none.npz\ndefenses: [none]\npools: own:5\n")
    (folder / "rows.jsonl").write_text('{"key": 3}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", sys.path.copy())
        patch.setenv("STEALGUARD_DATA", str(folder / "store"))
        patch.setattr("stealguard.cli.demonstration.run", lambda out, epochs: out)
        patch.setattr("stealguard.data.get", refused)
        yield folder


def refused(name: str, **how: object) -> None:
    raise OSError(101, "Network is unreachable", name)


def run(words: list[str]) -> tuple[int, str]:
    """The exit status, and what was written to stderr."""
    out, err = io.TextIOWrapper(io.BytesIO(), errors="strict", encoding="utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(words)
        except SystemExit as e:
            return int(e.code or 0), err.getvalue()
    return 0, err.getvalue()


def some(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.thorough)])
def test_mutated_arguments_are_one_line_and_status_2(home: Path, examples: int) -> None:
    @some(examples)
    @given(arguments())
    def check(words: list[str]) -> None:
        status, errors = run([word.replace("{home}", str(home)) for word in words])
        assert status in (0, 2), errors
        assert "Traceback" not in errors
        assert status == 0 or len(errors.splitlines()) == 1
        assert not (home / "out").exists(), "nothing half-written"

    check()


GRIDS = [
    "data", "nets", "outliers", "defenses", "attacks", "pools", "labels", "treatments", "own", "budgets", "seeds",
    "training", "epochs", "clone", "resize",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            "3",
            "x",
            "[]",
            "{}",
            "null",
            "true",
            "-1",
            "1e400",
            "[[]]",
            "{a: b}",
            "!!int x",
            "&a [*a]",
            "2020-01-01",
            "own:x",
            "npz:none.npz",
            "own_methods:net",
            "own_methods:Lazy",
            "[ini: {gamma: [1]}]",
            "!!set {a}",
            "? a",
            "[knockoff: {budget: x}]",
            "!!binary aGk=",
            "9" * 400,
            "~",
            "'[/x]'",
            "[a, [b]]",
            "{[1]: 2}",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=12),
)


@pytest.mark.slow
@pytest.mark.parametrize("examples", [40, pytest.param(200, marks=pytest.mark.thorough)])
def test_mutated_grids_are_one_line_and_status_2(home: Path, examples: int) -> None:
    keys = st.one_of(st.sampled_from(GRIDS), st.text(max_size=4))

    @some(examples)
    @given(st.dictionaries(keys, VALUES, min_size=1, max_size=4))
    def check(values: dict[str, str]) -> None:
        base = {"data": "npz:none.npz", "defenses": "[none]", "pools": "own:5"}
        lines = [f"{key}: {value}\n" for key, value in (base | values).items()]
        (home / "mutated.yaml").write_text("".join(lines), encoding="utf-8", errors="surrogatepass")
        status, errors = run(["compare", str(home / "mutated.yaml"), "--out", str(home / "out"), "--allow-code"])
        assert status == 2, errors
        assert "Traceback" not in errors
        assert len(errors.splitlines()) == 1
        assert not (home / "out").exists()

    check()
