"""Every kind of file and option that the commands read, spoiled: `KINDS[kind](draw, base, work)`.

`base` is a folder of sound inputs, which `prepare` makes; a mutant writes its own into the empty folder `work` and is
the arguments of a command that runs there. What it draws follows from the generator `draw` alone.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import shutil
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import damage
import numpy as np
import yaml
from damage import NAMES, TEXTS, VALUES

Mutant = Callable[[Random, Path, Path], list[str]]
KINDS: dict[str, Mutant] = {}

SHAPE = (1, 6, 6)
PROTECT = [
    "protect",
    "mlp",
    "npz:task.npz",
    "--out",
    "out",
    "--defense",
    "none",
    "--epochs",
    "1",
    "--train",
    "batch=16",
]
AUDIT = [
    "audit",
    "release",
    "--pools",
    "npz:pool.npz",
    "--budget",
    "20",
    "--labels",
    "hard",
    "--set",
    "training.epochs=1",
]
COMPARE = ["compare", "grid.yaml", "--out", "out"]
GRID: dict[str, Any] = {
    "data": ["npz:task.npz"], "nets": ["mlp"], "outliers": {"npz:task.npz": ["npz:outliers.npz"]}, "defenses": ["none"],
    "training": {"epochs": 1, "batch": 16}, "attacks": [{"knockoff": {"budget": 20, "training": {"epochs": 1}}}],
    "pools": ["npz:pool.npz"], "labels": ["hard"], "treatments": [""], "own": [0], "accounts": [1],
    "seeds": [0], "clone": None, "resize": False,
}  # fmt: skip


def kind(mutant: Mutant) -> Mutant:
    KINDS[mutant.__name__] = mutant
    return mutant


def given(words: list[str], *more: str) -> list[str]:
    """A command with more options; those that it has already are replaced."""
    kept, dropping = list[str](), False
    for word in words:
        if word.startswith("--"):
            dropping = word in more
        if not dropping:
            kept.append(word)
    return [*kept, *more]


# Sound inputs ------------------------------------------------------------------------------------------------


def arrays(seed: int) -> tuple[Any, Any]:
    """60 inputs of `SHAPE` in [0, 1] and their labels, of three classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(60) % 3
    return (0.7 * generator.random((60, *SHAPE)) + 0.1 * y[:, None, None, None]).astype(np.float32), y


def write_data(base: Path) -> None:
    """What commands are given: archives, pictures and a grid."""
    (x, y), (test_x, test_y) = arrays(1), arrays(2)
    np.savez(base / "task.npz", train_x=x, train_y=y, test_x=test_x[:30], test_y=test_y[:30])
    np.savez(base / "outliers.npz", x=arrays(3)[0])
    np.savez(base / "pool.npz", x=arrays(4)[0])
    from PIL import Image

    for number, suffix in enumerate(["png", "jpg", "gif", "bmp", "tif", "webp"] * 4):
        folder = base / "pictures" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (arrays(number)[0][number, 0] * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((8, 8)).save(folder / f"{number:02}.{suffix}")
    (base / "grid.yaml").write_text(yaml.safe_dump(GRID))
    (base / "own.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))\n"
    )
    write_onnx(base / "model.onnx")


def write_onnx(path: Path) -> None:
    """Logits (N, 3) for inputs (N, 1, 6, 6)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(36, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["y"])], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def copied(base: Path, work: Path, *names: str) -> None:
    for name in names:
        if (base / name).is_dir():
            shutil.copytree(base / name, work / name)
        else:
            shutil.copyfile(base / name, work / name)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def resealed(folder: Path, recipe: Any) -> None:
    """Write a recipe whose own hash is right, whatever it holds."""
    from stealguard.identity import fingerprint

    with suppress(ValueError, TypeError, AttributeError, UnicodeEncodeError, OverflowError, RecursionError):
        recipe["sha256"] = fingerprint({key: value for key, value in recipe.items() if key != "sha256"})
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")


# Archives ----------------------------------------------------------------------------------------------------


def spoil_archive(draw: Random, path: Path) -> None:
    with np.load(path) as archive:
        parts = dict(archive)
    chosen = draw.choice(list(parts))
    method = draw.choice(
        [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    members = {f"{name}.npy": damage.npy(part) for name, part in parts.items()}
    match draw.randrange(9):
        case 0 | 1 | 2:
            damage.archive(path, members, method)
            path.write_bytes(damage.spoiled(draw, path.read_bytes()))
        case 3:
            np.savez(path, **(parts | {chosen: damage.strange_array(draw, parts[chosen])}))
        case 4:
            members[f"{chosen}.npy"] = damage.strange_npy(draw, parts[chosen])
            damage.archive(path, members, method)
        case 5:
            members[f"{chosen}.npy"] = damage.spoiled(draw, members[f"{chosen}.npy"])
            damage.archive(path, members, method)
        case 6:
            content = members.pop(f"{chosen}.npy")
            names = ["x.npy", "../x.npy", "/x.npy", "y.npy", f"{chosen}", f"{chosen}.npy/", "train_x.npy", "a\nb.npy"]
            members[draw.choice(names)] = draw.choice([content, content, b"", pickle.dumps(print)])
            damage.archive(path, members, method)
        case 7:
            damage.zeros(path, draw.choice(["x.npy", "train_x.npy"]), "2000000000,", draw.choice([2**20, 2**27]))
        case _:
            damage.replaced(draw, path)


@kind
def npz_task(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz")
    spoil_archive(draw, work / "task.npz")
    return given(PROTECT, *draw.choice([[], ["--classes", "0", "1", "2"], ["--classes", "a", "b"], ["--resize"]]))


@kind
def npz_pool(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz", "pool.npz", "release")
    spoil_archive(draw, work / "pool.npz")
    return given(AUDIT, *draw.choice([[], ["--resize"]]))


@kind
def npz_outliers(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz", "outliers.npz")
    spoil_archive(draw, work / "outliers.npz")
    return given(PROTECT, "--defense", "ini", "--outliers", "npz:outliers.npz", *draw.choice([[], ["--resize"]]))


# Pictures ----------------------------------------------------------------------------------------------------


@kind
def pictures(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "pictures")
    home = work / "pictures"
    for _ in range(draw.choice([1, 1, 2, 5])):
        known = files(home)
        if not known:
            break
        path = draw.choice(known)
        match draw.randrange(10):
            case 0 | 1 | 2 | 3:
                path.write_bytes(damage.spoiled(draw, path.read_bytes()))
            case 4 | 5:
                suffix, content = damage.strange_picture(draw)
                path.with_name(draw.choice([path.name, f"strange{suffix}"])).write_bytes(content)
            case 6 | 7:
                damage.replaced(draw, path)
            case 8:
                with suppress(OSError):
                    path.rename(path.parent / f"{draw.choice(NAMES)}{draw.choice([path.suffix, '', '.PNG', '.npz'])}")
            case _:
                with suppress(OSError):
                    path.parent.rename(home / draw.choice([*NAMES, "train", "test", "VAL", "__MACOSX", "train/x"]))
        with suppress(PermissionError):
            list(home.rglob("*"))
    if draw.random() < 0.3:
        copied(base, work, "task.npz", "release")
        return given(AUDIT, "--pools", "folder:pictures", "--budget", "10", "--resize")
    return [word.replace("npz:task.npz", "folder:pictures") for word in PROTECT]


# Releases ----------------------------------------------------------------------------------------------------


def with_release(draw: Random) -> list[str]:
    """A command that reads the release."""
    return draw.choice([
        AUDIT, AUDIT, ["guard", "release", "rounding", "--out", "out"], ["report", "release", "--out", "page.html"],
        given(PROTECT, "--start", "release"), given(PROTECT, "--out", "release", "--overwrite"),
    ])  # fmt: skip


@kind
def recipes(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz", "pool.npz", "release")
    folder = work / "release"
    recipe = json.loads((folder / "recipe.json").read_text())
    if draw.random() < 0.8:
        resealed(folder, damage.respoiled(draw, recipe))
    elif draw.random() < 0.5:
        (folder / "recipe.json").write_bytes(damage.spoiled(draw, (folder / "recipe.json").read_bytes()))
    else:
        text = damage.written(draw, damage.respoiled(draw, recipe))
        (folder / "recipe.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    return with_release(draw)


@kind
def weights(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz", "pool.npz", "release")
    folder, path = work / "release", work / "release" / "weights.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    match draw.randrange(5):
        case 0:
            data = damage.spoiled(draw, data)
        case 1:
            data = struct.pack("<Q", draw.choice([0, 1, size - 1, size + 1, 2**31, 2**40, 2**63, 2**64 - 1])) + data[8:]
        case 2 | 3:
            values = [*VALUES, "F32", "F64", "BF16", "I64", "BOOL", "F8_E4M3", [0, 0], [0, 10**9], [0, 2**62], [8, 4]]
            text = damage.written(draw, damage.respoiled(draw, header, values)).encode("utf-8", "surrogatepass")
            data = struct.pack("<Q", len(text)) + text + data[8 + size :]
        case _:
            floats = np.frombuffer(data[8 + size :], "<f4").copy()
            floats[:: draw.choice([1, 7, 1000])] = draw.choice([np.nan, np.inf, 0.0, 1e38, -1e38])
            data = data[: 8 + size] + floats.tobytes()
    path.write_bytes(data)
    if draw.random() < 0.9:
        from stealguard.files import sha256

        resealed(folder, json.loads((folder / "recipe.json").read_text()) | {"weights_sha256": sha256(path)})
    return with_release(draw)


@kind
def release_folders(draw: Random, base: Path, work: Path) -> list[str]:
    """Files of a release that are something else, and folders where its parts should be."""
    copied(base, work, "task.npz", "pool.npz", "release")
    folder = work / "release"
    if draw.random() < 0.6:
        damage.replaced(draw, draw.choice(files(folder)))
    else:
        name = draw.choice([
            "release/audit.sqlite.answers", "release/audit.sqlite-wal", "release/audit.sqlite-shm", "release/.partial",
            "release/lock", "release/checkpoint.pt", "release.partial", "out.partial", "out.partial/lock", "out",
            "out.partial/checkpoint.pt", "out/recipe.json", "out.partial/weights.safetensors.try", "page.html",
            "release/weights.safetensors.new", "out.partial/recipe.json", "release.partial/lock",
        ])  # fmt: skip
        path = work / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(draw.choice([b"", b"x", b"\0" * 100]))
            if draw.random() < 0.8:
                damage.replaced(draw, path)
    return draw.choice([with_release(draw), with_release(draw), PROTECT, given(PROTECT, "--resume")])


@kind
def checkpoints(draw: Random, base: Path, work: Path) -> list[str]:
    import torch

    copied(base, work, "task.npz", "out.partial")
    path = work / "out.partial" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    match draw.randrange(6):
        case 0 | 1:
            path.write_bytes(damage.spoiled(draw, path.read_bytes()))
        case 2:
            torch.save(draw.choice([1, [], {}, "x", torch.zeros(3), {"identity": {}}, {"identity": 3}]), path)
        case 3:
            inside = state
            for _ in range(draw.randrange(1, 4)):
                key = draw.choice(list(inside))
                if not isinstance(inside[key], dict) or not inside[key]:
                    break
                inside = inside[key]
            key = draw.choice(list(inside)) if isinstance(inside, dict) and inside else None
            if key is not None:
                inside[key] = draw.choice(
                    [None, 3, [], {}, "x", torch.zeros(3), torch.full((3, 128), torch.nan), 10**30]
                )
            torch.save(state, path)
        case 4:
            path.write_bytes(pickle.dumps(draw.choice([print, {"identity": print}, [Path("x")]])))
        case _:
            damage.replaced(draw, path)
    return given(PROTECT, "--epochs", "2", "--resume")


@kind
def settings(draw: Random, base: Path, work: Path) -> list[str]:
    """Settings of defenses, trainings and attacks as KEY=VALUE."""
    copied(base, work, "task.npz", "pool.npz", "outliers.npz", "release")
    from stealguard.attacks import ATTACKS
    from stealguard.defenses import DEFENSES
    from stealguard.training import Training

    values = [*TEXTS, "[1]", "{a: 1}", "1e-3", "-1e-3", "0.5", "1.5", "10", "100000000000", "!!binary aGk=",
    "2020-01-01",
              "!!python/object:os.system x", "&a {b: *a}", "[" * 2000, "? a", "- a\n- b", "'", "\t", "0x10", "1_0",
              "1:2"]  # fmt: skip

    def pair(fields: Any) -> str:
        key = draw.choice([*fields, *fields, *NAMES, "a.b.c", "training.lr", "training", "", "."])
        return f"{key}={draw.choice(values)}"

    match draw.randrange(3):
        case 0:
            name = draw.choice([*ATTACKS])
            return [*AUDIT[:-2], "--attack", name, "--set", pair(vars(ATTACKS[name]())), pair(vars(ATTACKS[name]()))]
        case 1:
            name = draw.choice([*DEFENSES])
            return given(
                PROTECT, "--defense", name, "--outliers", "npz:outliers.npz", "--set", pair(vars(DEFENSES[name]()))
            )
        case _:
            chosen = pair([key for key in vars(Training()) if key != "epochs"])
            return [*PROTECT[:-2], "--train", chosen, *draw.choice([[], ["batch=16"]])]


# Grids -------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_TEXTS = [
    LAUGHS, "data: !!int x\n", "nets: 3\n", "data: [a]\ndata: [b]\n", "data: " + "[" * 5_000, "data: " + "{a: " * 5_000,
    "data: &a [*a]\n", "? [a, b]\n: c\n", "data: !!python/object/apply:os.system [true]\n", "--- a\n--- b\n", "\0",
    "%YAML 9\n",
    "<<: *x\n", "<<: {data: x}\n", "data: 2020-01-01\nseeds: [1, !!float x]\n", "data: !!timestamp x\n", "\tdata: x\n",
    "- data\n", "data", "", "# nothing", "'", "data: |\n  x", "data: !!omap [a: 1]\n", "data: !!set {a, b}\n",
    "seeds: 0x_\n",
    "seeds: 1:2:3\n", "seeds: [" + "1, " * 200_000 + "1]\n", "data: '" + "x" * 10**6 + "'\n", "a: &a {<<: *a}\n",
]  # fmt: skip


@kind
def grids(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz", "pool.npz", "outliers.npz", "grid.yaml", "own.py")
    path = work / "grid.yaml"
    more = [
        "npz:none.npz", "npz:pool.npz", "own:5", "nothing", "own:net", "ini", {"ini": {"gamma": [0.1, "x"]}},
        {"none": None},
        {"none": {"epochs": 0}}, {"none": {"name": 3}}, {"none": {"training": 3}}, "ini-robust",
        {"knockoff": {"budget": []}},
        {"knockoff": {"pools": "own:x"}}, {"jbda": 3}, ["none", "none"], list(range(12_000)), "smooth+x", 10**18, -1,
        {"none": {"epochs": 2}}, "quick", "full", [["knockoff"]], {"x": {"y": {}}}, {"npz:none.npz": []},
    ]  # fmt: skip
    match draw.randrange(10):
        case 0:
            path.write_bytes(damage.spoiled(draw, path.read_bytes()))
        case 1 | 2:
            path.write_text(draw.choice(["", path.read_text()]) + draw.choice(YAML_TEXTS))
        case 3:
            path.write_bytes(path.read_text().encode(draw.choice(["utf-16", "utf-32", "utf-8-sig", "cp037"])))
        case 4:
            damage.replaced(draw, path)
        case _:
            grid = damage.respoiled(draw, GRID, [*VALUES, *more, *more])
            with suppress(yaml.YAMLError):
                path.write_text(yaml.safe_dump(grid, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    return [*COMPARE, *draw.choice([[], ["--allow-code"]])]


@kind
def compare_folders(draw: Random, base: Path, work: Path) -> list[str]:
    """The folder of a finished comparison, in which one or two files are spoiled."""
    copied(base, work, "task.npz", "pool.npz", "outliers.npz", "grid.yaml", "compared")
    home = work / "compared"
    for _ in range(draw.choice([1, 1, 2])):
        path = draw.choice(files(home))
        match draw.randrange(4):
            case 0:
                damage.replaced(draw, path)
                break
            case 1 if path.suffix == ".json":
                text = damage.written(draw, damage.respoiled(draw, json.loads(path.read_text())))
                path.write_text(text, encoding="utf-8", errors="surrogatepass")
                break
            case 2:
                more = home / draw.choice(
                    ["cells", "locks", "releases", "attempts.jsonl", "report.html", "audit.sqlite"]
                )
                shutil.rmtree(more) if more.is_dir() else more.unlink(missing_ok=True)
                more.write_bytes(b"x")
                if draw.random() < 0.7:
                    damage.replaced(draw, more)
                break
            case _:
                path.write_bytes(damage.spoiled(draw, path.read_bytes()))
    return [*COMPARE[:-1], "compared"]


# Rows --------------------------------------------------------------------------------------------------------


def with_rows(draw: Random, source: str) -> list[str]:
    form = draw.choice(["table", "markdown", "latex", "csv", "json"])
    return ["report", source, "--format", form, *draw.choice([[], ["--out", "page.html"]])]


@kind
def json_lines(draw: Random, base: Path, work: Path) -> list[str]:
    lines = (base / draw.choice(["rows.jsonl", "old.jsonl"])).read_text().splitlines()
    place = draw.randrange(len(lines))
    if draw.random() < 0.8:
        record = json.loads(lines[place])
        lines[place] = damage.written(draw, damage.respoiled(draw, record, [*VALUES, "ok", "failed", "skip", 0.0, 1.0]))
        if draw.random() < 0.2:
            lines[place] = (
                lines[place][:-1] + f', "{draw.choice(list(record))}": {draw.choice(["1", "null", "NaN", "-"])}}}'
            )
        (work / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    elif draw.random() < 0.8:
        (work / "rows.jsonl").write_bytes(damage.spoiled(draw, "\n".join(lines).encode()))
    else:
        (work / "rows.jsonl").write_bytes(b"")
        damage.replaced(draw, work / "rows.jsonl")
    return with_rows(draw, "rows.jsonl")


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)"


def statements(draw: Random) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """SQL that leaves a store which is sound as a database, and strange as a store."""
    values = [None, -1, 0, 1, 2**62, 0.5, -0.5, 1e308, float("inf"), "", "x", "[]", "[1", '["a"]', "{}", "null", "[/x]",
              "\U0001f600", "a\nb", b"\xff\0", b"", "x" * 100_000, "0" * 5_000, "1" * 5_000, "[" * 50_000]  # fmt: skip
    table = draw.choice(["victims", "thefts", "metrics"])
    columns = {
        "victims": ["id", "key", "name", "setting", "seed", "data", "shape", "classes", "outliers", "training",
        "defense"],
        "thefts": ["victim", "key", "attack", "attack_settings", "pool", "labels", "status", "reason", "budget",
        "seconds",
                   "when", "accounts", "seed", "in_family", "threads"],
        "metrics": ["owner", "name", "value"],
    }[table]  # fmt: skip
    column = draw.choice(columns)
    match draw.randrange(14):
        case 0 | 1 | 2 | 3 | 4:
            yield f'UPDATE OR IGNORE {table} SET "{column}" = ?', (draw.choice(values),)
        case 5:
            yield f"PRAGMA user_version = {draw.choice([0, 1, 2, 4, 99, -1, 2**31 - 1])}", ()
        case 6:
            yield f"PRAGMA application_id = {draw.choice([0, 1, -1])}", ()
        case 7:
            yield f"DROP TABLE {table}", ()
        case 8:
            yield f"DELETE FROM {table}", ()
        case 9:
            yield f'ALTER TABLE {table} RENAME COLUMN "{column}" TO strange', ()
        case 10:
            yield f"ALTER TABLE {table} ADD COLUMN strange TEXT", ()
        case 11:
            yield f"DROP TABLE {table}", ()
            body = {"victims": "SELECT i AS id, i AS key FROM n", "thefts": "SELECT i AS victim, i AS key FROM n",
                    "metrics": "SELECT i AS owner, i AS name, 0.5 AS value FROM n"}[table]  # fmt: skip
            yield f"CREATE VIEW {table} AS {ENDLESS} {body}", ()
        case 12:
            yield (
                (
                    "CREATE TRIGGER endless AFTER INSERT ON thefts BEGIN INSERT OR REPLACE INTO metrics "
                    f"SELECT i, 'x', 0.5 FROM ({ENDLESS} SELECT i FROM n); END"
                ),
                (),
            )
        case _:
            yield f"DROP TABLE {table}", ()
            yield f"CREATE TABLE {table} (id, key, victim, owner, name, value, x GENERATED ALWAYS AS (id) VIRTUAL)", ()


@kind
def stores(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "rows.sqlite")
    path = work / "rows.sqlite"
    match draw.randrange(8):
        case 0 | 1 | 2:
            path.write_bytes(damage.spoiled(draw, path.read_bytes()))
        case 3:
            damage.replaced(draw, path)
        case 4:
            (work / "rows.sqlite-wal").write_bytes(
                draw.choice([b"", b"x", draw.randbytes(5_000), b"7\x7f\x06\x82" * 20])
            )
        case _:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                for statement, values in statements(draw):
                    with suppress(sqlite3.Error, OverflowError):
                        db.execute(statement, values)
    if draw.random() < 0.5:
        return with_rows(draw, "rows.sqlite")
    copied(base, work, "task.npz", "pool.npz", "release")
    return given(AUDIT, "--store", "rows.sqlite")


@kind
def ledgers(draw: Random, base: Path, work: Path) -> list[str]:
    """An audit that finds the answers of one that was killed, damaged."""
    copied(base, work, "task.npz", "pool.npz", "release", "audit.sqlite.answers")
    (ledger,) = files(work / "audit.sqlite.answers")
    data = ledger.read_bytes()
    head, size = 20, 4 + 4 + 32 + 4 * 3 + 8
    match draw.randrange(5):
        case 0 | 1:
            ledger.write_bytes(damage.spoiled(draw, data))
        case 2:
            damage.replaced(draw, ledger)
        case 3:
            from stealguard.boxes import ledger as format_

            width = draw.choice([0, 1, 2, 3, 4, 1000])
            answer = np.full(width, draw.choice([np.nan, np.inf, 0.0, -1.0, 0.5, 1e38]), np.float32)
            place = head + size * draw.randrange((len(data) - head) // size)
            digest = data[place + 8 : place + 40]
            record = format_._packed(digest, answer)
            at = draw.choice([head, place, len(data)])
            ledger.write_bytes(data[:at] + record * draw.choice([1, 3]) + data[at:])
        case _:
            lock = ledger.with_name(f"{ledger.name}.lock")
            lock.write_bytes(b"")
            damage.replaced(draw, lock)
    return given(AUDIT, "--store", "audit.sqlite")


# Models and code ---------------------------------------------------------------------------------------------


@kind
def onnx_files(draw: Random, base: Path, work: Path) -> list[str]:
    copied(base, work, "task.npz", "pool.npz", "model.onnx")
    path = work / "model.onnx"
    if draw.random() < 0.5:
        path.write_bytes(damage.spoiled(draw, path.read_bytes()))
    elif draw.random() < 0.25:
        damage.replaced(draw, path)
    else:
        strange_onnx(draw, path)
    audit = [*AUDIT[:1], "model.onnx", *AUDIT[2:], "--data", "npz:task.npz"]
    return [*audit, "--store", "rows.sqlite", *draw.choice([[], ["--clone", "mlp"]])]


def strange_onnx(draw: Random, path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    graph, entry = model.graph, model.graph.input[0].type.tensor_type
    match draw.randrange(8):
        case 0:
            entry.elem_type = draw.choice(
                [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.STRING, 99]
            )
        case 1:
            for dim, size in zip(
                entry.shape.dim, draw.choice([(1, 1, 6, 6), (60, 3, 8, 8), (0, 0, 0, 0)]), strict=True
            ):
                dim.dim_value = size
        case 2:
            weight = graph.initializer[0]
            values = np.frombuffer(weight.raw_data, np.float32).copy()
            values[:] = draw.choice([np.nan, np.inf, 1e38, -1e38, 0.0])
            weight.raw_data = values.tobytes()
        case 3:
            weight = graph.initializer[0]
            weight.dims[:] = draw.choice([[2**40, 3], [36, 2**30], [-1, 3], [], [36, 1], [36, 0]])
        case 4:
            last = draw.choice(
                ["Softmax", "Sigmoid", "Exp", "ArgMax", "Identity", "Nothing", "NonZero", "Neg", "Flatten"]
            )
            graph.node.append(helper.make_node(last, ["y"], ["z"]))
            graph.output[0].name = "z"
            graph.output[0].type.Clear()
        case 5:
            weight = graph.initializer[0]
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            for key, value in (("location", draw.choice(["/dev/zero", "/etc/passwd", "../x", "none", "model.onnx"])),
                               ("offset", draw.choice(["0", "-1", "x"])), ("length", draw.choice(["432",
                               "99999999999"]))):  # fmt: skip
                weight.external_data.add(key=key, value=value)
        case 6:
            graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N", 3]))
        case _:
            del (graph.node if draw.random() < 0.5 else graph.output)[0]
    path.write_bytes(model.SerializeToString())


@kind
def code(draw: Random, base: Path, work: Path) -> list[str]:
    """Modules of a user's own that are wrong in some way, named on the command line."""
    copied(base, work, "task.npz", "pool.npz", "outliers.npz", "release")
    body = draw.choice([
        "raise SystemExit", "raise SystemExit(3)", "raise ValueError('a\\nb')", "1 / 0", "def net(:", "\0", "net = 3",
        "def net():\n    raise SystemExit('x')", "def net():\n    return None", "def net(a, b):\n    return a",
        "def net():\n    return net()", "import nowhere", "raise RecursionError", "raise MemoryError", "assert False",
        "def net():\n    return nn.Linear(36, 3)",
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(35, 3))",
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 7))", "def net():\n    return nn.Identity()",
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Softmax(dim=1))",
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.LogSoftmax(dim=1))",
        "class net(nn.Module):\n    def forward(self, x):\n        return x", "class net(nn.Module):\n    pass",
        "class net(nn.Module):\n    def forward(self, x):\n        raise SystemExit('x')",
        "class net(nn.Module):\n    def forward(self, x):\n        return {'a': x}",
        "class net(nn.Module):\n    def forward(self, x):\n        return x.flatten(1)[:, :3] * float('nan')",
        "class net(nn.Module):\n    def forward(self, x):\n        x.zero_(); return x.flatten(1)[:, :3]",
        "def net(x):\n    return x.reshape(len(x), -1)[:, :3]", "def net(x):\n    return None",
        "def net(x):\n    return 'abc'",
        "def net(x):\n    raise KeyError('a\\nb')", "def net(x):\n    return [[0.2, 0.8, 0.0]] * len(x)",
        "def net(x):\n    return x[0]",
        "def net(x):\n    raise SystemExit('x')", "def net(x):\n    return [[0.2, 0.8, 0.0]]",
        "def net(x):\n    return [object()] * len(x)",
        "def net(x):\n    return [[float('nan')] * 3] * len(x)",
        "from dataclasses import dataclass\n@dataclass\nclass net:\n    a: int",
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass net:\n    budget: int = 5\n"
        "    needed: int = 5\n"
        "    def __call__(self, box, pool, clone, *, seed):\n        raise SystemExit('x')",
        "from stealguard.defenses.base import Defense\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\n"
        "class net(Defense):\n    def build(self, net, like):\n        raise OSError(28, 'No space left')",
    ])  # fmt: skip
    (work / "strange.py").write_bytes(f"import torch\nfrom torch import nn\n\n{body}\n".encode())
    name = draw.choice(
        ["strange:net"] * 12 + ["strange:nothing", "strange", "strange:", "strange:net.x", "..strange:net"]
    )
    return draw.choice([
        [*PROTECT[:1], name, *PROTECT[2:]], [*PROTECT[:1], name, *PROTECT[2:]], given(PROTECT, "--defense", name),
        given(AUDIT, "--attack", name), given(AUDIT, "--clone", name), given(AUDIT, "--net", name),
        ["audit", name, *AUDIT[2:], "--data", "npz:task.npz", "--store", "rows.sqlite"],
        ["audit", name, *AUDIT[2:], "--data", "npz:task.npz", "--store", "rows.sqlite", "--clone", "mlp"],
        ["guard", "release", name, "--out", "out"], ["guard", "release", "none", "--out", "out", "--trained", name],
    ])  # fmt: skip


# Sets with a name --------------------------------------------------------------------------------------------


def idx(array: Any) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape) + array.tobytes()


@kind
def published(draw: Random, base: Path, work: Path) -> list[str]:
    """Files of published sets in the user's own folder, and what the store has already."""
    home = work / "store"
    home.mkdir()
    pixels, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8)
    bomb = gzip.compress(bytes(2**28), 9) if draw.random() < 0.02 else gzip.compress(bytes(2**20))
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"fine_labels": [0, 1]}
    contents: list[bytes] = [
        idx(pixels), idx(labels), idx(pixels)[:20], b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x08\xff",
        gzip.compress(idx(pixels)),
        bomb, pickle.dumps(batch), pickle.dumps(print), pickle.dumps({b"data": 3}), pickle.dumps([1] * 9),
        b"cos\nsystem\n.",
        pickle.dumps(batch, 0), b"\x80\x04\x95" + b"\xff" * 8, bytes(3073), bytes(3074), b"", b"MATLAB 5.0",
        draw.randbytes(500),
    ]  # fmt: skip
    layout = {
        "mnist": [f"MNIST/raw/{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte",
        "labels-idx1-ubyte")],
        "kmnist": [f"KMNIST/raw/{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte",
        "labels-idx1-ubyte")],
        "emnist-letters": [f"EMNIST/raw/emnist-letters-{part}-{what}" for part in ("train", "test")
                           for what in ("images-idx3-ubyte", "labels-idx1-ubyte")],
        "cifar10": [f"cifar-10-batches-py/{name}" for name in ("data_batch_1", "data_batch_2", "data_batch_3",
        "data_batch_4",
                                                              "data_batch_5", "test_batch")],
        "cifar100": ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"],
        "svhn": ["train_32x32.mat", "test_32x32.mat"],
        "tiny-imagenet": ["tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/val/val_annotations.txt"],
    }  # fmt: skip
    name = draw.choice(list(layout))
    for file in layout[name]:
        path = home / f"{file}{draw.choice(['', '', '.gz'])}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = draw.choice(contents)
        path.write_bytes(content if draw.random() < 0.7 else damage.spoiled(draw, content))
        if draw.random() < 0.1:
            damage.replaced(draw, path)
            break
    if draw.random() < 0.4:
        kept = home / f"{name}.safetensors"
        kept.write_bytes(b"")
        with suppress(OSError):
            if draw.random() < 0.3:
                damage.replaced(draw, kept)
            else:
                header = json.dumps({"__metadata__": {"sha256": "0", "source": "x", "expected": "0"}, "train_x": {
                    "dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()  # fmt: skip
                sound = struct.pack("<Q", len(header)) + header + bytes(4)
                kept.write_bytes(draw.choice([sound, damage.spoiled(draw, sound)]))
    task = [word.replace("npz:task.npz", name) for word in PROTECT]
    return draw.choice(
        [["data", "get", name], ["data", "get", name], ["data", "verify"], ["data", "list", "--json"], task]
    )


# Options -----------------------------------------------------------------------------------------------------

LONG = {"suite": ["standard", "full", "adaptive"], "epochs": ["9" * 9]}  # what is sound, and takes minutes
SPECIAL: dict[str, list[str]] = {
    "threads": ["0", "-1", "1025", "10**9", "2147483648", "9" * 30, "1.5"], "workers": ["0", "-1", "1000000000",
    "9" * 30, "x"],
    "budget": ["0", "-1", "21", "1000000000000", "9" * 30, "1e3"], "seeds": ["-1", "9" * 30, "1.5", "4294967296", "x"],
    "seed": ["-1", "9" * 30, "18446744073709551616", "x"], "own": ["-1", "61", "9" * 30, "60"], "gpus": ["-1", "1",
    "9" * 30],
    "accounts": ["0", "-1", "1000000000", "9" * 30, "20", "21"], "accounts-to-reach": ["0", "-5", "101", "nan", "inf",
    "1e-300", "5"],
    "epochs": ["0", "-1", "1.5", "x", "1"], "device": ["cuda", "cuda:0", "cpu:7", "meta", "mps", "xpu", "", "cpu "],
    "clone": ["mlp", "lenet5", "resnet50", "own:net", "own:nothing"], "defense": ["ini", "ini-robust", "hoda",
    "none:x", "own:net"],
    "format": ["csv", "html", "JSON"], "engine": ["ray", "slurm", "none", ""], "address": ["auto", "127.0.0.1:1",
    "local", "debug"],
    "start": ["release", "none", "task.npz", "/"], "net": ["mlp", "own:net", "own:nothing", "lenet5"],
    "trained": ["own:net", "none"],
    "pools": ["npz:pool.npz", "npz:task.npz", "own:60", "own:61", "nothing", "letters", "digits", "npz:outliers.npz"],
    "labels": ["soft", "hard", "both"], "treatments": ["sharpen", "top-1+smooth", "x+", "+", "p-bayes", "d-dae",
    "confident"],
    "classes": ["0", "a", "3", "-1"], "data": ["npz:task.npz", "npz:pool.npz", "mnist", "task.npz", "folder:."],
    "outliers": ["npz:outliers.npz", "npz:pool.npz", "letters", "npz:task.npz", "folder:."], "store": ["rows.sqlite",
    "release", "task.npz"],
    "out": ["release", "task.npz", "task.npz/x", "release/x", "/proc/x", "/dev/null/x", ".", "..", "/", "", "x" * 300,
    "a\nb", "out/"],
}  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "protect": PROTECT,
    "audit": AUDIT,
    "guard": ["guard", "release", "rounding", "--out", "out"],
    "compare": COMPARE,
    "report": ["report", "rows.jsonl", "--out", "page.html"],
    "list": ["list", "attacks"],
    "data get": ["data", "get", "mnist"],
    "data list": ["data", "list"],
    "data verify": ["data", "verify"],
    "demo": ["demo", "--out", "out", "--epochs", "0"],
}


def options() -> list[tuple[str, str]]:
    """Every command with each of its options, as the command line itself lists them."""
    from stealguard.cli import app

    found = []
    for command in COMMANDS:
        parsed = app
        for word in command.split():
            parsed = parsed[word]
        for argument in parsed.assemble_argument_collection(parse_docstring=False):
            found.append((command, argument.name))
    return found


def spoil_options(draw: Random, base: Path, work: Path, command: str, option: str) -> list[str]:
    copied(base, work, "task.npz", "pool.npz", "outliers.npz", "grid.yaml", "release", "rows.jsonl", "own.py")
    words = list(COMMANDS[command])
    bare = option.lstrip("-").lower()
    long = LONG.get(bare, [])
    special = SPECIAL.get(bare, [])
    values = [value for value in draw.sample([*special, *special, *TEXTS, *NAMES], 3) if value not in long]
    if not option.startswith("-"):
        place = min(len(command.split()), len(words) - 1)
        words[place] = values[0]
        return [*words, *values[1:2]] if draw.random() < 0.2 else words
    if command == "compare" and draw.random() < 0.3:
        words.append("--allow-code")
    match draw.randrange(6):
        case 0:
            return [*words, option]
        case 1:
            return [*words, f"{option}={values[0]}"]
        case 2:
            return [*words, option, *values]
        case 3:
            return [*words, option, values[0], option, values[1]]
        case _:
            return [*words, option, values[0]]


@kind
def command_lines(draw: Random, base: Path, work: Path) -> list[str]:
    """Each option of each command in turn: the number of the mutant decides which."""
    known = options()
    command, option = known[draw.number % len(known)]  # type: ignore[attr-defined]
    return spoil_options(draw, base, work, command, option)


class Numbered(random.Random):
    """The generator of a mutant, which knows the mutant's number."""

    def __init__(self, name: str, number: int):
        super().__init__(f"{name} {number}")
        self.number = number


def made(name: str, number: int, base: Path, work: Path) -> list[str]:
    """Write the mutant of that kind and number; the arguments of its command."""
    return KINDS[name](Numbered(name, number), base, work)


def text_of(stream: io.BufferedIOBase) -> str:
    return stream.read().decode("utf-8", "replace")
