"""The words in the terminal: what to begin with, names in help texts, widths, JSON, and completion in the shell."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from rich.console import Console

from report.made_up import make_row
from stealguard.cli import app, main
from stealguard.identity import ANSWERED_WITH, identity_of
from stealguard.report import summary
from stealguard.report.cells import stolen_of
from stealguard.report.naming import number
from stealguard.results import STORE, Store, read

HOME = Path(__file__).parents[2]
PRINTS_JSON = {
    "protect", "audit", "guard", "compare", "report", "export", "verify", "list", "data list", "data verify",
    "keys add", "keys list", "keys history", "card",
}  # fmt: skip
PRINTS_NO_DATA = {  # a file, a server, or a line for each argument
    "serve", "demo", "data get", "keys revoke", "--install-completion",
}  # fmt: skip


def commands(of: App = app, before: str = "") -> Iterator[str]:
    """The names of all commands, as one types them."""
    for name in of:
        if name not in ("--help", "-h", "--version"):
            inside = of[name]
            deeper = [one for one in inside if one not in ("--help", "-h", "--version")]
            yield from commands(inside, f"{before}{name} ") if deeper else [f"{before}{name}"]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def help_of(command: str) -> str:
    """The help text of a command on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        app.help_print(command.split(), console=console)
    return captured.get()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_program_alone_shows_five_commands_with_an_example_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    named = re.findall(r"^  (\w+) ", text, flags=re.MULTILINE)
    examples = re.findall(r"^            stealguard (.*)$", text, flags=re.MULTILINE)
    assert named == ["protect", "audit", "report", "serve", "compare"]
    assert [example.split()[0] for example in examples] == named
    for example in examples:
        app.parse_args(shlex.split(example), exit_on_error=False, print_error=False)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", ["", *commands()])
def test_every_help_text_fits_80_columns(command: str) -> None:
    assert max(map(len, help_of(command).splitlines())) <= 80


def test_help_texts_list_every_name() -> None:
    from stealguard.attacks import ATTACKS
    from stealguard.attacks.treatments import TREATMENTS
    from stealguard.auditing import SUITES
    from stealguard.cli.list import LISTINGS
    from stealguard.nets import NETS
    from stealguard.releases import PRESETS

    def words(command: str) -> set[str]:
        lines = (line.strip("│ ") for line in help_of(command).splitlines())
        return set(re.findall(r"[\w-]+", re.sub(r"-\s+", "-", " ".join(lines))))

    assert {*PRESETS, *NETS} <= words("protect")
    assert {*ATTACKS, *TREATMENTS, *SUITES} <= words("audit")
    assert set(LISTINGS) <= words("list")


@pytest.mark.slow
def test_every_command_that_prints_data_prints_json() -> None:
    assert set(commands()) == PRINTS_JSON | PRINTS_NO_DATA
    assert {command for command in commands() if "--json" in help_of(command)} == PRINTS_JSON


@pytest.mark.parametrize("kind", ["attacks", "defenses", "nets", "presets", "suites", "sets", "treatments"])
def test_lists_fit_80_columns(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert max(map(len, shown(capsys, "list", kind).splitlines())) <= 80


def test_suites_are_listed_with_their_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    lines = json.loads(shown(capsys, "list", "suites", "--json"))
    assert lines["quick"].endswith(" [attacks: knockoff, jbda]")
    assert lines["adaptive"].endswith(" [attacks: knockoff, what counters the defense]")
    assert "disguide" in lines["full"]


@pytest.mark.no_cover
@pytest.mark.parametrize("rows", ["mnist-lenet5", "rivals", "standard", "robust-owners", "robust"])
def test_tables_of_rows_fit_80_columns_and_keep_their_numbers(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = HOME / f"docs/results/{rows}.jsonl"
    table = shown(capsys, "report", str(path))
    assert max(map(len, table.splitlines())) <= 80
    numbers = {number(stolen_of(group.worst)) for group in summary(read(path))}
    assert all(one in table for one in numbers)


def test_report_prints_json_in_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(HOME / "docs/results/mnist-lenet5.jsonl")
    assert shown(capsys, "report", path, "--json") == shown(capsys, "report", path, "--format", "json")


def test_a_report_of_a_folder_is_of_its_present_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = dict.fromkeys(ANSWERED_WITH, "")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    store = Store(tmp_path / STORE)
    store.put(make_row(release_hash="another", clone_accuracy=0.8))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 2
    assert "no rows of its present release, but 1 of earlier ones" in capsys.readouterr().err
    store.put(make_row(release_hash=identity_of(recipe), clone_accuracy=0.3))
    main(["report", str(tmp_path)])
    told = capsys.readouterr()
    assert ("30.0" in told.out, "80.0" in told.out) == (True, False)
    assert "which are left out: 1" in told.err
    assert "80.0" in shown(capsys, "report", str(tmp_path / STORE)), "a store is shown with all of its rows"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str) -> None:
    script = app.generate_completion(prog_name="stealguard", shell=shell)
    assert all(word in script for word in ("protect", "audit", "accounts-to-reach", "history"))


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_in_the_home_folder(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["--install-completion", "--shell", shell])
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("stealguard" in path.name for path in written)
