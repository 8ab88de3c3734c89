"""The README says what the committed rows say, and what it shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks import counters, gpu, lines, means, step_cost, tables, worst

from stealguard.defenses import InI
from stealguard.releases.presets import PRESETS
from stealguard.report import render
from stealguard.results import read
from stealguard.settings import changed

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text()
NOTEBOOK = (HOME / "docs/research/README.md").read_text()


def test_the_table_is_computed_from_committed_rows() -> None:
    assert render(read(HOME / "docs/results/mnist-lenet5.jsonl"), "markdown") in README


@pytest.mark.no_cover
def test_the_table_of_rivals_is_computed_from_committed_rows() -> None:
    rivals = (HOME / "docs/rivals.md").read_text()
    assert render(read(HOME / "docs/results/rivals.jsonl"), "markdown") in rivals


@pytest.mark.parametrize(
    "rows",
    [
        "robust", "robust-fashion", "robust-strictness", "robust-ablation", "robust-less-textures", "robust-further",
        "robust-fashion-further", "robust-much", "robust-warm", "robust-cifar10", "robust-owners",
    ],
)  # fmt: skip
def test_the_notebooks_tables_of_attacks_are_computed_from_committed_rows(rows: str) -> None:
    assert worst.tables(read(HOME / f"docs/results/{rows}.jsonl")) in NOTEBOOK


@pytest.mark.parametrize(
    ("rows", "by", "of"),
    [
        ("labelling", ["labelling"], ["honest", "clone_accuracy"]),
        ("border", ["setting"], ["validation", "shifted", "seen", "glyphs", "strokes"]),
        ("classes", ["class"], ["honest", "clone_accuracy"]),
        ("shifted", ["data", "defense", "start", "augment", "epochs"], ["validation", "plain", "shifted", "twice"]),
    ],
)
def test_the_notebooks_other_tables_are_means_of_committed_rows(rows: str, by: list[str], of: list[str]) -> None:
    assert means.table(HOME / f"docs/results/{rows}.jsonl", by, of) in NOTEBOOK


@pytest.mark.parametrize("rows", ["tables", "tables-mixed"])
def test_the_tables_of_tables_and_signals_are_computed_from_committed_rows(rows: str) -> None:
    assert tables.table(read(HOME / f"docs/results/{rows}.jsonl")) in NOTEBOOK


def test_the_table_of_training_steps_is_computed_from_committed_rows() -> None:
    rows = step_cost.read(HOME / "docs/results/step-cost.jsonl")
    assert step_cost.table(rows) in (HOME / "docs/speed.md").read_text()


def test_the_table_of_steps_on_a_gpu_is_computed_from_committed_rows() -> None:
    assert gpu.table(lines.read(HOME / "docs/results/gpu.jsonl")) in (HOME / "docs/gpu.md").read_text()


@pytest.mark.parametrize("rows", ["ini-fast", "ini-fast-fashion", "ini-less", "ini-less-fashion"])
def test_the_tables_of_the_fast_preset_are_computed_from_committed_rows(rows: str) -> None:
    assert render(read(HOME / f"docs/results/{rows}.jsonl"), "markdown") in (HOME / "docs/speed.md").read_text()


def test_the_fast_preset_takes_the_step_that_was_timed() -> None:
    weights = {"gamma": InI.gamma, "delta": InI.delta, "epsilon": InI.epsilon}
    assert changed(PRESETS["ini-fast"].defense, weights, "ini-fast") == step_cost.VARIANTS["ini-fast"]


MEMORY = {"measurement": "theft", "guard": "memory", "variant": ""}
STOLEN = ["clone_accuracy", "renamed_accuracy_20"]


@pytest.mark.parametrize(
    ("by", "where"),
    [
        (["pool_name", "accounts"], MEMORY | {"attack": "told explore"}),
        (["pool_name", "accounts"], MEMORY | {"attack": "told early"}),
        (["pool_name", "accounts"], MEMORY | {"attack": "told warm"}),
        (["pool_name", "accounts"], MEMORY | {"variant": "strictness=8"}),
        (["attack", "labels"], MEMORY | {"accounts": "1", "pool_name": "letters"}),
        (["attack", "labels"], {"measurement": "theft", "guard": "none"}),
    ],
)
def test_the_tables_of_adaptive_attackers_are_means_of_committed_rows(by: list[str], where: dict[str, str]) -> None:
    rows = HOME / "docs/results/adaptive.jsonl"
    table = means.table(rows, by, ["clone_accuracy", "renamed_accuracy_20"], where)
    assert table in NOTEBOOK
    assert (table in README) == (where.get("attack") == "told explore")


@pytest.mark.parametrize(
    ("by", "of", "where"),
    [
        (["pool_name", "accounts"], STOLEN, {**MEMORY, "attack": "told explore"}),
        (["pool_name", "accounts"], STOLEN, {**MEMORY, "attack": "told early"}),
        (["attack", "labels"], STOLEN, {**MEMORY, "guard": "none"}),
        (["how"], ["first_five", "later", "net_alone"], {"measurement": "first five", "variant": ""}),
    ],
)
def test_the_tables_of_fashion_mnist_are_means_of_committed_rows(
    by: list[str], of: list[str], where: dict[str, str]
) -> None:
    assert means.table(HOME / "docs/results/adaptive-fashion.jsonl", by, of, where) in NOTEBOOK


@pytest.mark.parametrize(
    ("by", "of", "where"),
    [
        (["accounts"], STOLEN, {"measurement": "theft", "guard": "memory", "attack": "told explore"}),
        (["accounts"], STOLEN, {"measurement": "theft", "guard": "memory", "attack": "told early"}),
        (["attack", "labels"], STOLEN, {"measurement": "theft", "guard": "none"}),
        (["how"], ["first_five", "later", "net_alone"], {"measurement": "first five"}),
    ],
)
def test_the_tables_of_cifar10_are_means_of_committed_rows(by: list[str], of: list[str], where: dict[str, str]) -> None:
    assert means.table(HOME / "docs/results/adaptive-cifar10.jsonl", by, of, where) in NOTEBOOK


def test_the_table_of_refusals_on_cifar10_is_means_of_committed_rows() -> None:
    assert means.table(HOME / "docs/results/refusals-cifar10.jsonl", ["accounts"], STOLEN) in NOTEBOOK


def test_the_table_of_honest_accounts_is_means_of_committed_rows() -> None:
    rows, of = HOME / "docs/results/adaptive.jsonl", ["first_five", "later", "net_alone"]
    assert means.table(rows, ["how"], of, {"measurement": "first five", "variant": ""}) in NOTEBOOK


@pytest.mark.parametrize("rows", ["adaptive", "adaptive-fashion"])
def test_the_tables_of_drift_and_its_price_are_means_of_committed_rows(rows: str) -> None:
    path, unusual = HOME / f"docs/results/{rows}.jsonl", {"measurement": "honest", "variant": "", "share": "None"}
    assert means.table(path, ["what"], ["squared_drift", "inliers"], {"measurement": "drift"}) in NOTEBOOK
    assert means.table(path, ["how"], ["later", "net_alone", "suspected"], unusual) in NOTEBOOK


def test_the_table_of_attackers_who_know_the_rivals_is_computed_from_committed_rows() -> None:
    page = (HOME / "docs/rivals.md").read_text()
    rows = HOME / "docs/results/rivals-adaptive.jsonl"
    assert counters.table(rows) in page
    assert counters.by_accounts(rows) in page


def test_the_table_of_related_queries_is_means_of_committed_rows() -> None:
    rows, of = HOME / "docs/results/adaptive.jsonl", ["auc_query", "auc_account"]
    table = means.table(rows, ["accounts"], of, {"measurement": "related"})
    assert table in NOTEBOOK


@pytest.mark.parametrize("rows", ["refusals", "refusals-fashion"])
def test_the_tables_of_refusals_are_computed_from_committed_rows(rows: str) -> None:
    assert means.table(HOME / f"docs/results/{rows}.jsonl", ["pool_name", "accounts"], STOLEN) in NOTEBOOK


def test_whatever_it_points_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`(src/[^`]+)`", README):
        assert target.startswith("http") or (HOME / target).exists(), target


def test_the_python_example_is_sound() -> None:
    """It parses, and every name and keyword in it exists; running it takes minutes, which `stealguard demo` does."""
    import ast
    import inspect

    import stealguard as sg

    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Call):
            function = eval(ast.unparse(node.func), {"sg": sg})
            inspect.signature(function).bind(*node.args, **{k.arg: k.value for k in node.keywords if k.arg})


def test_the_commands_it_names_exist() -> None:
    from stealguard.cli import app

    (words,) = re.findall(r"`stealguard ((?:\w+ \| )+\w+)`", README)
    assert set(words.split(" | ")) <= set(app)


def test_every_attack_and_treatment_is_named() -> None:
    from stealguard.attacks import ATTACKS
    from stealguard.attacks.treatments import TREATMENTS

    assert {name for name in (*ATTACKS, *TREATMENTS) if f"`{name}`" not in README} == set()


def test_every_test_that_the_page_on_reliability_names_is_there() -> None:
    page = (HOME / "docs/reliability.md").read_text()
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", page)
    assert len(named) > 40
    for file, name in named:
        assert re.search(rf"^def {name}\(", (HOME / file).read_text(), re.MULTILINE), f"{file}::{name}"
    promises = [
        line for line in page.splitlines() if line.startswith("|") and not line.startswith(("| promise", "| ---"))
    ]
    assert all("::test_" in line for line in promises)
