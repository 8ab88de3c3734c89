"""Inputs by row: each kind gives the rows that the whole tensor would, copies nothing, and hashes its content."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stealguard.data.inputs import Inputs, Joined, Resized, Stored, Subset, as_inputs, bounds, row_hashes
from stealguard.data.scaling import Scaling
from stealguard.errors import Invalid

X = torch.arange(60, dtype=torch.uint8).view(10, 1, 2, 3) * 4
ROWS = torch.tensor([7, 0, 7, 3])

KINDS: dict[str, tuple[Callable[[], Inputs], Tensor]] = {
    "pixels": (lambda: Stored(X), X.float() / 255),
    "flags": (lambda: Stored(X.clamp_max(1), pixels=False), X.clamp_max(1).float()),
    "doubles": (lambda: Stored(X.double() / 240), (X.double() / 240).float()),
    "scaled": (lambda: Stored(X.float(), scaling=Scaling((0.0,), (240.0,))), (X.double() / 240).float()),
    "subset": (lambda: Subset(Stored(X), torch.arange(9, -1, -1)), X.flip(0).float() / 255),
    "joined": (lambda: Joined([Stored(X[:4]), Stored(X[4:5].float() / 255), Stored(X[5:])]), X.float() / 255),
    "resized": (lambda: Resized(Stored(X), (3, 2, 3)), (X.float() / 255).expand(-1, 3, -1, -1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_whole_tensor(kind: str) -> None:
    make, whole = KINDS[kind]
    x = make()
    assert (len(x), x.shape) == (10, tuple(whole.shape))
    assert x[:].dtype == torch.float32
    mask = torch.arange(10) % 3 == 0
    for index in (
        slice(None),
        slice(2, 5),
        slice(None, None, 3),
        ROWS,
        -1 - ROWS,
        mask,
        torch.tensor([], dtype=torch.long),
    ):
        assert torch.allclose(x[index], whole[index])
    assert torch.allclose(x[[1, 2]], whole[[1, 2]])
    assert torch.allclose(x[-1], whole[-1])
    assert torch.allclose(torch.stack(list(x)), whole)  # which ends with the last row
    for beyond in 10, -11, torch.tensor([0, 10]):
        with pytest.raises(IndexError):
            x[beyond]


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_follows_from_the_content(kind: str) -> None:
    make, _ = KINDS[kind]
    assert make().hash == make().hash
    assert len({make().hash for make, _ in KINDS.values()}) == len(KINDS)


def test_rows_are_copies_so_that_no_model_can_change_the_data() -> None:
    x = torch.rand(4, 3)
    kept = x.clone()
    for index in slice(None), slice(1, 2), torch.tensor([2]), 3:
        Stored(x)[index].zero_()
    assert torch.equal(x, kept)


def test_stored_inputs_share_the_memory_of_the_tensor() -> None:
    x = torch.zeros(4, 3)
    stored = as_inputs(x)
    x[2] = 1
    assert stored[2].tolist() == [1, 1, 1]
    assert as_inputs(stored) is stored


def test_another_scaling_replaces_the_first_and_pixels_have_none() -> None:
    x = torch.tensor([[0.0, 10.0], [5.0, 20.0]])
    first = Stored(x).scaled(Scaling((0.0,), (20.0,)))
    assert first.unit
    assert first[:].tolist() == [[0, 0.5], [0.25, 1]]
    again = Subset(first, torch.tensor([1])).scaled(Scaling((0.0, 0.0), (5.0, 40.0)))
    assert again[:].tolist() == [[1, 0.5]]
    assert again.numbers(torch.tensor([0])).tolist() == [[5, 20]]
    for pixels in Stored(X), Subset(Stored(X), ROWS):
        assert pixels.scaled(Scaling((0.0,), (20.0,))) is pixels


def test_bounds_are_by_column_in_tables_and_one_pair_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealguard.data.inputs.CHUNK", 24)
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    assert bounds(Stored(x), "x") == Scaling(tuple(x.amin(0).tolist()), tuple(x.amax(0).tolist()))
    assert bounds(Stored(x[:, None]), "x") == Scaling((x.min().item(),), (x.max().item(),))
    x[20:, 1] = torch.nan
    with pytest.raises(Invalid, match=r"`x` should be free of NaN. Found 10 NaN"):
        bounds(Stored(x), "x")
    x[20:, 1] = -torch.inf
    with pytest.raises(Invalid, match=r"`x` should be of finite values. Found values from -inf"):
        bounds(Stored(x), "x")


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5), (1.0, 1 + 2**-23)])
def test_rows_that_differ_in_order_or_in_one_bit_have_other_hashes(values: tuple[float, float]) -> None:
    """All 65,536 rows of sixteen numbers of two values."""
    bits = (torch.arange(2**16)[:, None] >> torch.arange(16)) & 1
    hashes = row_hashes(Stored(torch.tensor(values)[bits]))
    assert len(set(hashes.tolist())) == 2**16
    assert len({value >> 32 for value in hashes.tolist()}) > 0.999 * 2**16, "each half is a hash"


def test_equal_rows_have_equal_hashes_however_they_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealguard.data.inputs.CHUNK", 80)
    hashes = row_hashes(Stored(X))
    assert (hashes.shape, hashes.dtype, len(set(hashes.tolist()))) == ((10,), np.uint64, 10)
    assert np.array_equal(hashes, row_hashes(Stored(X.float() / 255)))
    assert np.array_equal(hashes[ROWS.numpy()], row_hashes(Subset(Stored(X), ROWS)))
    pool = Joined([Stored(torch.rand(20, 1, 2, 3)), Stored(X[3:5])])
    assert np.isin(row_hashes(pool), hashes).nonzero()[0].tolist() == [20, 21]
    zero = torch.zeros(1, 4)
    assert row_hashes(Stored(zero)) == row_hashes(Stored(-zero))
