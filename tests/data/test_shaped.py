"""Sets at the shape of a task: each input is a function of its number, at the size that is wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stealguard.data import SETS, store
from stealguard.data.generated import cropped, shaped
from stealguard.data.inputs import Stored, Subset
from stealguard.data.sources import Source
from stealguard.errors import Invalid

DRAWN = ["textures", "strokes", "letters"]
MADE = ["uniform", "shuffled", "mixed", "noise"]


def table(n: int = 300) -> Tensor:
    """Four columns, of which the last follows from the first."""
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.5, 0.2, 1.0])
    x[:, 3] = 1 - x[:, 0]
    return x


@pytest.mark.parametrize("name", DRAWN)
class TestDrawn:
    def test_each_image_is_a_function_of_its_number(self, name: str) -> None:
        x = shaped.at(name, (1, 40, 40))
        assert x.shape == (SETS[name].sizes[0], 1, 40, 40)
        assert torch.equal(x[[7, 3]], shaped.at(name, (1, 40, 40))[:8][[7, 3]])
        assert len(x[:12].flatten(1).unique(dim=0)) == 12
        assert 0 <= float(x[:12].min()) < float(x[:12].max()) <= 1

    def test_the_shape_is_part_of_the_hash(self, name: str) -> None:
        shapes = [(1, 40, 40), (3, 40, 40), (1, 40, 48)]
        assert len({shaped.at(name, shape).hash for shape in shapes}) == 3
        assert shaped.at(name, shapes[0]).hash == shaped.at(name, shapes[0]).hash

    def test_images_have_two_colors_in_any_number_of_channels(self, name: str) -> None:
        x = shaped.at(name, (5, 24, 32))[:4]
        assert x.shape == (4, 5, 24, 32)
        for image in x.flatten(2):
            clearest = image[(image.amax(dim=1) - image.amin(dim=1)).argmax()]
            low, high = image[:, clearest.argmin()], image[:, clearest.argmax()]
            share = (clearest - clearest.min()) / (clearest.max() - clearest.min()).clamp_min(1e-6)
            assert torch.allclose(image, low[:, None] + share * (high - low)[:, None], atol=0.03)

    def test_large_images_are_as_fine_as_their_pixels(self, name: str) -> None:
        sharpest = max(
            float((image[:, 1:] - image[:, :-1]).abs().max()) for image in shaped.at(name, (1, 224, 224))[:8][:, 0]
        )
        assert sharpest > 0.4, "what is enlarged eightfold has no such edges"


def test_inputs_are_made_once_where_they_are_few_and_nothing_is_kept_where_they_are_many() -> None:
    made = []
    few = shaped.Images("textures", (1, 4, 4), lambda number: made.append(number) or np.full((1, 4, 4), 9, np.uint8))
    assert torch.equal(few[[5, 5, 2]], torch.full((3, 1, 4, 4), 9 / 255))
    assert (few[[2, 5]].shape, sorted(made)) == ((2, 1, 4, 4), [2, 5])
    many = shaped.Images("textures", (1, 999, 999), lambda number: made.append(number) or np.zeros((1, 999, 999), "u1"))
    assert many[[7]].shape == many[[7]].shape == (1, 1, 999, 999)
    assert made.count(7) == 2


def test_what_this_program_draws_is_told_from_a_tasks_inputs() -> None:
    drawn, numbers = shaped.at("textures", (1, 9, 9)), shaped.at("noise", (4,), Stored(table()))
    assert (drawn.made, Subset(drawn, torch.arange(3)).made, numbers.made) == (True, True, False)


@pytest.mark.parametrize("name", MADE)
def test_numbers_are_functions_of_their_rows_and_of_the_training_inputs(name: str) -> None:
    x = shaped.at(name, (4,), Stored(table()))
    assert (x.shape, x[:3].dtype, x.unit) == ((20_000, 4), torch.float32, True)
    assert torch.equal(x[[9, 4]], shaped.at(name, (4,), Stored(table()))[:10][[9, 4]])
    assert 0 <= float(x[:].min()) <= float(x[:].max()) <= 1
    other = shaped.at(name, (4,), Stored(table(299)))
    assert (x.hash == other.hash) == (name == "uniform")


def test_columns_keep_what_each_set_promises() -> None:
    like = table()
    made = {name: shaped.at(name, (4,), Stored(like))[:] for name in MADE}
    correlated = {name: float(torch.corrcoef(x.T)[0, 3]) for name, x in made.items()}
    assert abs(correlated["uniform"]) < 0.05
    assert abs(correlated["shuffled"]) < 0.05
    assert abs(correlated["noise"]) < 0.05
    assert correlated["mixed"] == pytest.approx(-1, abs=1e-4)
    assert made["uniform"].mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.02)
    for column in range(4):
        assert np.isin(made["shuffled"][:, column], like[:, column]).all()
    assert made["noise"].mean(0).tolist() == pytest.approx(like.mean(0).tolist(), abs=0.03)
    assert (made["mixed"].amax(0) <= like.amax(0) + 1e-6).all()


def test_signals_keep_their_spectrum_and_their_mean() -> None:
    t = torch.arange(32) / 32
    like = 0.5 + 0.2 * torch.sin(2 * torch.pi * 3 * t).expand(10, 2, 32)
    x = shaped.at("spectrum", (2, 32), Stored(like.clone()))[:50]
    spectrum = torch.fft.rfft(x.double()).abs()
    assert torch.allclose(spectrum, torch.fft.rfft(like[0].double()).abs().expand_as(spectrum), atol=1e-4)
    assert len(x.flatten(1).unique(dim=0)) == 50


def test_uniform_numbers_do_not_depend_on_what_else_is_asked() -> None:
    rows = np.arange(1000)
    whole = shaped.uniform(3, rows, 50)
    assert np.array_equal(whole[[5, 900]], shaped.uniform(3, np.array([5, 900]), 50))
    assert whole.mean() == pytest.approx(0.5, abs=0.01)
    assert np.corrcoef(whole[:, 0], whole[:, 1])[0, 1] == pytest.approx(0, abs=0.1)
    assert len(np.unique(whole)) == whole.size
    assert not np.isin(whole, shaped.uniform(4, rows, 50)).any()


def pictures(monkeypatch: pytest.MonkeyPatch, *found: np.ndarray) -> None:
    source = Source("here", lambda site: {f"{number:03}": picture for number, picture in enumerate(found)})
    monkeypatch.setattr(cropped, "pictures", lambda kind, working: source)


def opaque(height: int, width: int) -> np.ndarray:
    picture = np.full((height, width, 4), 255, np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    return picture


def test_photographs_are_cut_at_size_and_none_is_enlarged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = opaque(20, 200)  # covers no crop of 48 x 64, and hides none of it
    pictures(monkeypatch, opaque(100, 200), small)
    x = shaped.at("wallpapers", (3, 48, 64))
    assert (x.shape, x[:5].shape) == ((30_000, 3, 48, 64), (5, 3, 48, 64))
    assert (x[:20][:, 1] == 1).all()
    step = x[:20][:, 0].diff(dim=2).max() * 255
    assert 1 <= step < 5, "at least a pixel of the picture's to a pixel of the crop's"
    assert x.hash == shaped.at("wallpapers", (3, 48, 64)).hash != shaped.at("wallpapers", (3, 48, 48)).hash
    assert shaped.at("wallpapers", (1, 48, 64))[:3].shape == (3, 1, 48, 64)
    with pytest.raises(Invalid, match=r"a set with pictures of at least 300 x 300 pixels. Found `wallpapers`"):
        shaped.at("wallpapers", (3, 300, 300))


def test_small_drawings_lie_on_a_gradient(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = np.zeros((16, 16, 4), np.uint8)
    drawing[4:12, 4:12] = 255
    pictures(monkeypatch, drawing)
    x = shaped.at("stamps", (3, 40, 40))[:6]
    assert ((x == 1).all(dim=1).sum(dim=(1, 2)) == 64).all()


def test_the_pictures_that_are_cut_are_stored_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(monkeypatch, opaque(100, 200))
    first = shaped.at("wallpapers", (3, 48, 64))
    pictures(monkeypatch, opaque(100, 300))
    assert shaped.at("wallpapers", (3, 48, 64)).hash == first.hash
    assert store.note(store.place("wallpapers-pictures-512", root)) is not None
    assert cropped.PHOTOGRAPHS["wallpapers"].working_at(224) == 1024
