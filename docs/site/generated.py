"""Pages of the site that are made from the code: command line, settings, file formats, and the Python reference."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from griffe import Docstring, DocstringSectionKind

PACKAGES = [
    "attacks", "auditing", "boxes", "comparing", "data", "defenses", "nets", "releases", "report", "results", "serving",
    "training",
]  # fmt: skip


def pages() -> dict[str, str]:
    """By its place on the site, the text of every page that is made from code."""
    from stealguard.attacks import ATTACKS
    from stealguard.defenses import DEFENSES

    top = _public("stealguard")
    python = {f"reference/api/{name}.md": reference(f"stealguard.{name}", known=top) for name in PACKAGES}
    return {
        "reference/cli.md": command_line(),
        "reference/attacks.md": methods("Attacks", ATTACKS, ATTACKED),
        "reference/defenses.md": methods("Defenses", DEFENSES, DEFENDED),
        "reference/formats.md": formats(),
        "reference/api/stealguard.md": reference("stealguard"),
        **python,
    }


# Command line -----------------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command with its options, from the program itself."""
    from stealguard.cli import app

    text = app.generate_docs(output_format="markdown", usage_name="stealguard")
    return text.replace("# stealguard", "# Command line", 1)


# Settings of methods ----------------------------------------------------------------------------------------

ATTACKED = """Every attack with its settings, as the registry has them. A setting is given as `--set NAME=VALUE` on the
command line, by name in a grid, and as an argument in Python. The [threat model](../threat-model.md) says what
an attack can see; [the README](../../README.md#attacks) has the papers."""
DEFENDED = """Every defense with its settings, as the registry has them. A setting is given as `--set NAME=VALUE` on the
command line, by name in a grid, and as an argument in Python. [All defenses compared](../rivals.md) has the
papers, the costs and what was measured. *Countered by* names what an attacker does who knows the defense."""


def methods(title: str, table: Mapping[str, type], about: str) -> str:
    """A section for each method: what it does, and its settings with defaults and meaning."""
    return "\n\n".join([f"# {title}", about, *(_method(name, kind) for name, kind in table.items())]) + "\n"


def _method(name: str, kind: type) -> str:
    doc = Docstring(inspect.getdoc(kind) or "", lineno=1).parse("google", warnings=False)
    text = "\n\n".join(section.value for section in doc if section.kind is DocstringSectionKind.text)
    meanings = _meanings(kind)
    rows = [
        f"| `{field.name}` | {_default(field)} | {_cell(meanings.get(field.name, ''))} |"
        for field in fields(kind)
        if field.init
    ]
    settings = "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows]) if rows else "No settings."
    countered = ", ".join(f"`{one}`" for one in getattr(kind, "countered_by", ()))
    package = kind.__module__.split(".")[1]
    public = f"stealguard.{package}.{kind.__name__}"
    parts = [f"## `{name}`", f"`{public}`", text, settings, f"Countered by: {countered}." if countered else ""]
    return "\n\n".join(part for part in parts if part)


def _meanings(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its ancestors say of each setting."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        sections = Docstring(inspect.cleandoc(ancestor.__doc__ or ""), lineno=1).parse("google", warnings=False)
        for section in sections:
            if section.kind is DocstringSectionKind.parameters:
                for parameter in section.value:
                    found |= dict.fromkeys(parameter.name.split(", "), parameter.description)
    return found


def _default(field: Field[Any]) -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if is_dataclass(value):  # shown by what differs from its own defaults
        usual = type(value)()
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        told = ", ".join(f"{name}={one!r}" for name, one in pairs if one != getattr(usual, name))
        return f"`{type(value).__name__}({told})`"
    return f"`{value!r}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


# Formats ----------------------------------------------------------------------------------------------------


def formats() -> str:
    """The files that stealguard writes, with the number of each format as the code has it."""
    from stealguard.releases import export, release
    from stealguard.results import STORE, migrations
    from stealguard.serving.ledger import sqlite

    return FORMATS.format(
        recipe=release.RECIPE, weights=release.WEIGHTS, release=release.FORMAT, rows=migrations.FORMAT,
        flat=migrations.FLAT, store=STORE, exports=export.REPORT, export=export.FORMAT, ledger=sqlite.VERSION,
    )  # fmt: skip


FORMATS = """# Files and their formats

Each file says its format, a whole number. A program that meets a newer number says so and stops; it never
guesses. [Stability](../stability.md) says when a number changes.

| file | format | where the number is | older formats |
| --- | --: | --- | --- |
| `{recipe}` of a release | {release} | `"format"` | refused: use the version that wrote it |
| `{weights}` of a release | {release} | the recipe, with the file's SHA-256 | as the recipe |
| rows as JSON lines | {rows} | `"format"` of each line | {flat} is read; its lines do not say a format |
| `{store}`, a store of rows | {rows} | `PRAGMA user_version` | upgraded in one transaction when the store is opened |
| `{exports}` of a release | {export} | `"format"` | refused: export again |
| the ledger of a server, SQLite | {ledger} | `PRAGMA user_version` | none so far |
| the ledger of a server, Redis | {ledger} | the key `stealguard:version` | none so far |

## A release

A folder. `{recipe}` has all that the release was made from: data with their SHA-256, net, defense and settings,
outliers, training, seed, versions. It ends with its own SHA-256, and names that of the weights. `stealguard
verify` checks both. Weights are never unpickled.

## Rows

One row is the result of one theft. It nests the facts of its victim under `victim`, and its measurements under
`metrics`; accuracies are fractions in [0, 1]. [`Row`](api/results.md#stealguard.results.Row) and
[`VictimFacts`](api/results.md#stealguard.results.VictimFacts) have the fields. The key of a row is the SHA-256
of all that it follows from: two rows with one key are the same theft. `stealguard report ROWS --json`,
`rows.to_records()` and `rows.to_pandas()` give flat records."""


# Python -----------------------------------------------------------------------------------------------------


def _public(package: str) -> dict[str, Any]:
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__ if not name.startswith("__")}


def reference(package: str, known: Mapping[str, Any] | None = None) -> str:
    """A page that documents every public name of a package; those of `known` are on the page of the top one."""
    module, public = importlib.import_module(package), _public(package)
    elsewhere = [name for name, value in public.items() if any(value is one for one in (known or {}).values())]
    shown = {name: value for name, value in public.items() if name not in elsewhere and not inspect.ismodule(value)}
    documented = [name for name, value in shown.items() if inspect.isclass(value) or inspect.isfunction(value)]
    constants = [f"- `{name}`: {_told(value)}" for name, value in shown.items() if name not in documented]
    modules = [name for name, value in public.items() if inspect.ismodule(value) and name in PACKAGES]
    parts = [f"# {package}", inspect.getdoc(module) or ""]
    if modules:
        parts.append("Packages: " + ", ".join(f"[`{name}`]({name}.md)" for name in modules) + ".")
    if elsewhere:
        links = (f"[`{name}`](stealguard.md{'' if name.isupper() else f'#stealguard.{name}'})" for name in elsewhere)
        parts.append("Also public here: " + ", ".join(links) + ".")
    if constants:
        parts.append("\n".join(constants))
    return "\n\n".join([*parts, *(f"::: {package}.{name}" for name in documented)]) + "\n"


def _told(value: object) -> str:
    """A constant in a line: the names that a table has, or the value."""
    if isinstance(value, Mapping):
        return "a table with " + ", ".join(f"`{key}`" for key in value)
    return f"`{value!r}`"


# Sources ----------------------------------------------------------------------------------------------------

UNSEARCHED = "---\nsearch: {exclude: true}\n---\n\n"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "sh", ".ipynb": "json"}


def members(folder: Path) -> list[Path]:
    """The files of a folder that the site can show."""
    return sorted(one for one in folder.iterdir() if one.suffix in LANGUAGES)


def source(path: str, file: Path) -> str:
    """A page that shows a file of the repository, or lists a folder."""
    if file.is_dir():
        return f"{UNSEARCHED}# {path}\n\n" + "".join(f"- [{one.name}]({path}/{one.name}.md)\n" for one in members(file))
    return f"{UNSEARCHED}# {path}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text()}````\n"
