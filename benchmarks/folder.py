"""Peak memory of a folder of pictures: of `protect` on it, one epoch with outliers from a second folder.

    python -m benchmarks.folder                          # 5,000 and 20,000 JPEGs of 3 x 64 x 64
    python -m benchmarks.folder --pictures 2000 8000

Each reading is a process of its own, and its peak is the most memory that was resident (torch's libraries alone take
about 0.25 GB). Pixels that take no more than 512 MiB are kept in memory, as bytes; beyond that, pictures are decoded
by row. Both are measured for every number of pictures. The limit is 1.5 GB, whatever the number.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch import nn

LIMIT = 1.5  # GB
KEPT = {"in memory": 512 * 2**20, "by row": 0}  # bytes of pixels up to which a folder is kept in memory
OUTLIERS = 2_000  # pictures, in a folder of their own
DEFENSES = ("none", "ini-robust")


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of protecting a folder of pictures.")
    parser.add_argument("--pictures", type=int, nargs="+", default=[5_000, 20_000], help="how many JPEGs are written")
    parser.add_argument("--defenses", nargs="+", default=DEFENSES)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "DEFENSE", "KEPT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, defense, kept = given.one
        protect(Path(folder), defense, int(kept))
        return
    with tempfile.TemporaryDirectory() as home:
        write(Path(home) / "outliers", OUTLIERS, seed=1)
        for number in given.pictures:
            write(Path(home) / "pictures", number, seed=0)  # those of a smaller number are already there
            for defense in given.defenses:
                for way, kept in KEPT.items():
                    measure(home, f"{number:7,} pictures  {way:9}  {defense:10}", defense, kept)


def measure(home: str, what: str, defense: str, kept: int) -> None:
    """One process that protects the folder: its peak, which is an error above the limit, and its seconds."""
    command = [sys.executable, "-m", "benchmarks.folder", "--one", home, defense, str(kept)]
    peak, seconds = map(float, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split())
    print(f"{what}  peak {peak:.2f} GB  {seconds:4.0f} s", flush=True)
    if peak > LIMIT:
        sys.exit(f"The peak is above {LIMIT} GB.")


def write(folder: Path, n: int, seed: int) -> None:
    """JPEGs of 3 x 64 x 64 in ten class folders, until there are `n`; each follows from the seed and its number."""
    from PIL import Image

    for number in range(n):
        path = folder / f"class{number % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            pixels = np.random.default_rng((seed, number)).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(path, quality=80)


def net() -> nn.Module:
    """A small convolutional net for 3 x 64 x 64 and ten classes."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 5 * 5, 10),
    )  # fmt: skip


def protect(home: Path, defense: str, kept: int) -> None:
    """Print the peak in GB and the seconds of protecting `home`/pictures for one epoch."""
    import stealguard as sg
    from stealguard.data import pictures

    pictures.KEPT = kept
    start = time.perf_counter()
    sg.protect(
        "benchmarks.folder:net", f"folder:{home / 'pictures'}", outliers=[f"folder:{home / 'outliers'}"],
        defense=defense, epochs=1, out=home / "release", overwrite=True, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, in KiB elsewhere
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, seconds)


if __name__ == "__main__":
    main()
