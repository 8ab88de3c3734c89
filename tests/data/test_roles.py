"""Sets in their roles: which stand in for queries, how pools are made to fit, and what is held out of them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from stealguard import data
from stealguard.data import SETS, roles
from stealguard.data.generated import shaped
from stealguard.data.inputs import Stored, Subset, row_hashes
from stealguard.data.roles import conform, divide, named, several, stand_ins, unseen
from stealguard.errors import Invalid


def test_roles_follow_from_the_table_of_sets() -> None:
    assert stand_ins((1, 28, 28)) == ["glyphs", "textures"]
    assert stand_ins((3, 32, 32)) == ["stamps", "wallpapers"]
    assert unseen((1, 28, 28)) == ["letters"]
    assert unseen((3, 32, 32)) == ["clipart"]
    assert stand_ins((1, 224, 320)) == stand_ins((4, 16, 16)) == ["glyphs", "textures"]
    assert (stand_ins((3, 224, 224)), unseen((3, 224, 224))) == (["stamps", "wallpapers"], ["clipart"])
    for shape in (5,), (2, 50), (3, 8, 8, 8):
        assert (stand_ins(shape), unseen(shape)) == (["uniform", "shuffled"], ["mixed", "noise"])
    assert all((spec.role in ("task", "near-task")) == spec.labeled for spec in SETS.values())
    assert roles.family("cifar10-gray") == "cifar10"
    assert roles.family("mnist") == "mnist"
    assert roles.family("npz:mine.npz") == "npz:mine.npz"


def test_a_line_says_which_sets_were_chosen() -> None:
    assert roles.chosen(["glyphs", "textures"], (1, 28, 28)) == "glyphs and textures (none were named)"
    said = "uniform and shuffled, made with inputs of 2 x 50 (none were named)"
    assert roles.chosen(stand_ins((2, 50)), (2, 50)) == said


def test_named_sets_are_made_at_the_shape_of_the_task_and_not_resized() -> None:
    found = named(["textures", "strokes"], (3, 12, 20), "pools", resize=True)
    assert [type(x).__name__ for x in found.values()] == ["Images", "Images"]
    assert [x.shape for x in found.values()] == [(20_000, 3, 12, 20), (30_000, 3, 12, 20)]
    like = Stored(torch.rand(30, 5))
    assert torch.equal(named("noise", (5,), "pools", like=like)["noise"][:9], shaped.at("noise", (5,), like)[:9])
    with pytest.raises(Invalid, match=r"can be made with inputs of shape \(5,\). Found `spectrum`"):
        named("spectrum", (5,), "pools", like=like)
    with pytest.raises(Invalid, match="a task beside it, from whose training inputs it is made"):
        named("noise", (5,), "pools")


def test_what_limits_a_defense_is_known_before_it_is_trained() -> None:
    assert list(roles.doubts(Stored(torch.rand(9, 1, 4, 4)), {"apart": Stored(torch.rand(9, 1, 4, 4))})) == []
    assert list(roles.doubts(Stored(torch.rand(9, 4)), {})) == []
    x = Stored(torch.rand(400, 3))
    among, apart = Stored(torch.rand(200, 3)), Stored(torch.rand(200, 3) + 2)
    assert roles.overlap(among, x) > 0.7
    assert roles.overlap(apart, x) == 0
    first, second = roles.doubts(x, {"among": among, "apart": apart})
    assert "mixtures of task inputs" in first
    assert re.match(r"[789]\d % of the outliers `among` lie as near to task inputs", second)


def test_several_sets_and_one_labeled_set() -> None:
    x, y = torch.rand(10, 3), torch.arange(10) % 2
    for one in x, x.numpy(), "letters", data.task((x, y)), (x, y), [x, y, x, y], TensorDataset(x):
        assert several(one) == [one] if isinstance(one, str) else len(several(one)) == 1
    assert len(several([x, x])) == len(several([TensorDataset(x), TensorDataset(x)])) == 2
    assert several([]) == []


def test_a_labeled_pool_gives_no_test_inputs() -> None:
    x, y, z, w = torch.rand(20, 3), torch.arange(20) % 2, torch.rand(10, 3), torch.arange(10) % 2
    task = data.task((x, y, z, w))
    datasets = TensorDataset(x, y), TensorDataset(z, w)
    for given in (x, y, z, w), task, [task], ((x, y), (z, w)), datasets, [datasets]:
        (pool,) = named(given, (3,), "pools").values()
        assert torch.equal(pool[:], x)
        assert not np.isin(row_hashes(pool), row_hashes(task.test.x)).any()
    split = data.task((x, y), seed=5)
    (pool,) = named((x, y), (3,), "pools", seed=5).values()
    assert torch.equal(pool[:], split.train.x[:])


def test_pools_in_raw_units_are_scaled_as_the_task_is() -> None:
    x, y = 100 * torch.rand(20, 3), torch.arange(20) % 2
    task = data.task((x, y, x[:10], y[:10]))
    pool = 120 * torch.rand(15, 3) - 10
    found = named(pool, (3,), "pools", scaling=task.scaling)
    assert torch.equal(found[data.label(pool)][:], task.scaling.to01(pool))
    with pytest.raises(Invalid, match=r"`pools` should be in \[0, 1\]"):
        named(pool, (3,), "pools")
    pool[3] = torch.nan
    with pytest.raises(Invalid, match="`pools` should be free of NaN"):
        named(pool, (3,), "pools", scaling=task.scaling)
    pixels = torch.randint(256, (5, 3), dtype=torch.uint8)
    assert torch.equal(conform(Stored(pixels), (3,), "pools", scaling=task.scaling)[:], pixels.float() / 255)
    assert torch.equal(named(task, (3,), "pools", scaling=task.scaling)[task.name][:], task.train.x[:])


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def test_pools_of_another_shape_are_resized_by_row_where_that_is_wanted() -> None:
    x = torch.rand(6, 3, 8, 8)
    with pytest.raises(Invalid, match=r"`pools` should be of shape \(N, 1, 4, 4\), or images resized with `resize`"):
        conform(x, (1, 4, 4), "pools")
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    assert torch.equal(conform(x, (1, 4, 4), "pools", resize=True)[:], resized(luma, (4, 4)))
    assert torch.equal(conform(luma, (3, 5, 7), "pools", resize=True)[:], resized(luma.expand(-1, 3, -1, -1), (5, 7)))
    for odd in torch.rand(2, 9), torch.rand(2, 4, 8, 8):
        with pytest.raises(Invalid, match="resized"):
            conform(odd, (1, 4, 4), "pools", resize=True)
    same = Stored(x)
    assert conform(same, (3, 8, 8), "pools") is same


def test_a_third_of_each_family_is_held_out_always_alike() -> None:
    x = torch.rand(31, 3)
    known, held = divide(x, "letters")
    assert isinstance(known, Subset)
    assert (len(known), len(held)) == (31 - round(31 / 3), round(31 / 3))
    assert math.isclose(len(held) / 31, roles.HELD_OUT, abs_tol=0.02)
    assert len(torch.unique(torch.cat([known[:], held[:]]), dim=0)) == 31
    assert known.hash == divide(Stored(x), "letters")[0].hash
    assert known.hash != divide(x, "glyphs")[0].hash


def test_named_sets_keep_their_pixels(root: Path, register: Any) -> None:
    from small import write_idx

    register("digits")
    write_idx(root / "digits" / "raw")
    (pool,) = named("digits", (1, 28, 28), "pools").values()
    assert pool.shape == (20, 1, 28, 28)
    assert isinstance(pool, Stored)
    assert pool.dtype == torch.uint8
