"""Tables in CSV and Parquet files: columns, categories, classes, and what is refused by row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stealguard import data
from stealguard.data import tables
from stealguard.data.reading import Columns, reading_of
from stealguard.errors import Invalid, StealguardError

HEAD = "age,job,height,pay"
ROWS = ["31,pilot,1.8,high", "40,cook,1.7,low", "22,cook,1.6,low", "58,pilot,1.9,high"]


def write(path: Path, rows: list[str] | None = None, head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *(ROWS * 5 if rows is None else rows)]) + "\n")
    return path


def test_numbers_stay_and_categories_become_one_number_each(tmp_path: Path) -> None:
    found = tables.read("csv", str(write(tmp_path / "a.csv", ROWS)))
    assert found.columns == Columns((("age", ()), ("job", ("cook", "pilot")), ("height", ())), "pay")
    assert found.columns.names == ("age", "job=cook", "job=pilot", "height")
    assert np.array_equal(found.x[0], [31, 0, 1, 1.8])
    assert (found.classes, found.y.tolist()) == (("high", "low"), ["high", "low", "low", "high"])
    assert reading_of(found.columns.state()) == found.columns


def test_a_table_is_a_task_in_raw_units(tmp_path: Path) -> None:
    task = data.task(f"csv:{write(tmp_path / 'a.csv')}")
    assert (task.names, task.train.x.shape, task.test.x.shape) == (("high", "low"), (16, 4), (4, 4))
    assert task.scaling is not None
    assert (task.scaling.low[0], task.scaling.high[0]) == (22, 58)
    assert task.notes[0] == "The target is the column `pay`, the last one: 2 classes, high, low."
    assert task.notes[1] == "Columns: 2 of numbers (age, height), and of categories job (2); an input has 4 numbers."
    again = data.task(task)
    assert again.reading == task.reading
    assert torch.equal(again.train.x[:], task.train.x[:])


def test_another_target_and_another_order_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a:b.csv")
    task = data.task(f"csv:{path}:job", classes=["pilot", "cook"])
    assert task.names == ("pilot", "cook")
    assert task.reading.names == ("age", "height", "pay=high", "pay=low")
    assert task.notes[0] == "The target is the column `job`: 2 classes, cook, pilot."
    with pytest.raises(Invalid, match=r"with the target column `wage`. Found age, job, height, pay"):
        data.task(f"csv:{path}:wage")


def test_classes_that_are_whole_numbers_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    rows = [f"{i},{label}" for i in range(4) for label in (10, 9, 2)]
    assert data.task(f"csv:{write(tmp_path / 'a.csv', rows, 'x,y')}").names == ("2", "9", "10")


def test_other_separators_and_quotes_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeffa;"b; c";y\r\n1;"x;y";0\r\n2;z;1\r\n\r\n', encoding="utf-8")
    found = tables.read("csv", str(tmp_path / "a.csv"))
    assert found.columns.names == ("a", "b; c=x;y", "b; c=z")


def test_a_cell_like_a_formula_is_a_word(tmp_path: Path) -> None:
    rows = ["=1+1,a", '"=HYPERLINK(""http://x"")",b', "@SUM(A1),a"]
    found = tables.read("csv", str(write(tmp_path / "a.csv", rows, "x,y")))
    assert found.columns.columns == (("x", ("=1+1", '=HYPERLINK("http://x")', "@SUM(A1)")),)


def test_whole_numbers_that_begin_with_a_zero_are_categories(tmp_path: Path) -> None:
    rows = ["01234,0,0.5,a", "98765,10,01.5,b", " 01234,0,0.5,a"]
    found = tables.read("csv", str(write(tmp_path / "a.csv", rows, "zip,count,length,y")))
    assert found.columns.columns == (("zip", ("01234", "98765")), ("count", ()), ("length", ()))
    assert "Whole numbers of which some begin with 0 are taken for categories: zip." in found.notes
    many = [f"{i:05},{i % 2}" for i in range(300)]
    with pytest.raises(Invalid, match="Found 300 different numbers, some of which begin with 0, in `zip`"):
        tables.read("csv", str(write(tmp_path / "b.csv", many, "zip,y")))


def test_a_pool_is_read_with_the_columns_of_the_task(tmp_path: Path) -> None:
    task = data.task(f"csv:{write(tmp_path / 'a.csv')}")
    pool = write(tmp_path / "pool.csv", ["1.5,50,cook,x", "1.6,20,cook,y"], "height,age,job,note")
    assert data.own.unlabeled(f"csv:{pool}", 0, None, task.reading).numbers(torch.tensor([0])).tolist() == [
        [50, 1, 0, 1.5]
    ]
    odd = write(tmp_path / "odd.csv", ["1.5,50,clerk", "1.6,20,cook"], "height,age,job")
    with pytest.raises(Invalid, match=r"a known category in the column `job` \(cook, pilot\). Found `clerk` in row 1"):
        data.own.unlabeled(f"csv:{odd}", 0, None, task.reading)


@pytest.mark.parametrize(
    ("rows", "head", "said"),
    [
        (["31,,1.8,high"], HEAD, "without missing values .* Found nothing in row 1 of the column `job`"),
        ([*ROWS, "3,cook,NaN,low"], HEAD, "without missing values .* Found `NaN` in row 5 of the column `height`"),
        ([*ROWS, "3,cook,1.8, ?"], HEAD, "Found `[?]` in row 5 of the column `pay`"),
        ([*ROWS, "3,cook,-inf,low"], HEAD, "of finite numbers. Found `-inf` in row 5 of the column `height`"),
        ([*ROWS, "3,cook,1.8"], HEAD, "4 cells in every row. Found 3 in row 5"),
        (ROWS, "age,job,age,pay", "different names. Found age twice"),
        (ROWS, "age,,height,pay", "a header that names each column"),
        ([], HEAD, "rows below its header. Found none"),
        (["1"], "x", "at least 2 columns. Found 1"),
        ([f"w{i},{i % 2}" for i in range(300)], "x,y", "at most 256 categories .* Found 300 different words in `x`"),
        ([f"0,{i / 7}" for i in range(1200)], "x,y", "at most 1000 classes .* Found 1,200 different values in `y`"),
        (["a,0", '"b,1'], "x,y", "a CSV file in UTF-8"),
        (
            ["4,5,0"] * 20,
            "1.5,-2e3,0",
            r"first line names the columns .* Found 1.5, -2e3, 0 in the first line of .*a.csv",
        ),
        (["4,5,0"] * 20, "1,1,0", "first line names the columns .* Found 1, 1, 0 in the first line"),
        (["4,5,0"] * 20, "1,?,0", "first line names the columns"),
        (ROWS, "35,cook,1.75,low", "first line names the columns .* Found 35, cook, 1.75, low in the first line"),
    ],
)
def test_what_is_wrong_is_told_by_row_and_column(tmp_path: Path, rows: list[str], head: str, said: str) -> None:
    path = write(tmp_path / "a.csv", rows, head)
    with pytest.raises(Invalid, match=said):
        data.task(f"csv:{path}")


def test_names_that_are_numbers_stand_beside_others_that_are_none(tmp_path: Path) -> None:
    """Wavelengths, for example."""
    path = write(tmp_path / "a.csv", ["0.2,0.3,low", "0.3,0.1,high"] * 10, "400,401,kind")
    assert tables.read("csv", str(path)).columns.names == ("400", "401")


def test_paths_and_encodings_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"`csv:` and the path of a file. Found .*nowhere"):
        data.task(f"csv:{tmp_path}/nowhere.csv")
    with pytest.raises(Invalid, match="`csv:` and a path"):
        data.task("csv:")
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(Invalid, match="a CSV file in UTF-8"):
        data.task(f"csv:{tmp_path}/a.csv")
    with pytest.raises(Invalid, match=r"write .*`csv:.*a.csv`"):
        data.task(f"{tmp_path}/a.csv")


def test_a_value_that_stretches_a_scale_is_told(tmp_path: Path) -> None:
    rows = [f"{i},{10**9 if i in (1, 2) else i},{int(i == 3)},{'ab'[i % 2]}" for i in range(300)]
    path = write(tmp_path / "a.csv", rows, "plain,stretched,rare,y")
    assert any("set the bounds of stretched: 98 of 100" in note for note in data.task(f"csv:{path}").notes)
    path = write(tmp_path / "b.csv", [row for row in rows if "000000000" not in row], "plain,stretched,rare,y")
    assert not any("set the bounds" in note for note in data.task(f"csv:{path}").notes)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"age": 31, "job": "cook"}, "a list of cells for each column. Found `31`"),
        ({"age": [31], "job": "cook"}, "a list of cells for each column. Found `cook`"),
        ({"age": [31, 32], "job": ["cook"]}, "as many cells in one column as in another. Found 1, 2"),
    ],
)
def test_cells_to_encode_are_lists_of_one_length(table: dict[str, Any], said: str) -> None:
    columns = Columns((("age", ()), ("job", ("cook", "pilot"))), "pay")
    with pytest.raises(Invalid, match=said):
        tables.encoded(table, columns)


def test_the_index_that_pandas_stores_is_no_column(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "key": [7, 8, 9, 10], "y": [0, 1, 0, 1]})
    for name, stored in (("kept", frame), ("filtered", frame[frame.a != 2]), ("named", frame.set_index("key"))):
        stored.to_parquet(tmp_path / f"{name}.parquet")
        read = tables.read("parquet", f"{tmp_path}/{name}.parquet")
        assert read.columns.target == "y"
        assert read.columns.names == (("a",) if name == "named" else ("a", "key"))


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"age": [31, 40, 22, 58], "job": ["pilot", "cook", "cook", "pilot"], "height": [1.8, 1.7, 1.6, 1.9]}
    parquet.write_table(pa.table(columns | {"pay": ["high", "low", "low", "high"]}), tmp_path / "a.parquet")
    one, other = (
        tables.read("parquet", f"{tmp_path}/a.parquet"), tables.read("csv", str(write(tmp_path / "a.csv", ROWS)))
    )  # fmt: skip
    assert one.columns == other.columns
    assert np.array_equal(one.x, other.x)
    assert one.y.tolist() == other.y.tolist()
    parquet.write_table(pa.table({"x": [1.0, None], "y": [0, 1]}), tmp_path / "b.parquet")
    with pytest.raises(Invalid, match="Found nothing in row 2 of the column `x`"):
        tables.read("parquet", f"{tmp_path}/b.parquet")
    parquet.write_table(pa.table({"x": [[1], [2]], "y": [0, 1]}), tmp_path / "c.parquet")
    with pytest.raises(Invalid, match=r"numbers or words. Found list in `x`"):
        tables.read("parquet", f"{tmp_path}/c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"no table")
    with pytest.raises(Invalid, match="a Parquet file"):
        tables.read("parquet", f"{tmp_path}/d.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(StealguardError, match=r"pip install 'stealguard\[parquet\]'"):
        data.task(f"parquet:{tmp_path}/a.parquet")
