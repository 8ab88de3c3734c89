"""Peak memory of a folder of pictures: read as a task, then one epoch of shuffled batches.

    python -m benchmarks.folder                      # 20,000 JPEGs of 3 x 64 x 64, in memory and by row
    python -m benchmarks.folder --pictures 2000

Each reading is a process of its own, and its peak is the most memory that was resident (torch's libraries alone take
about 0.25 GB). The limit is 1.5 GB, whatever the number of pictures.
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

LIMIT = 1.5  # GB
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of reading a folder of pictures.")
    parser.add_argument("--pictures", type=int, default=20_000, help="how many JPEGs are written")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        epoch(Path(given.read), given.kept)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.pictures)
        for way, kept in ("in memory", 512 * 2**20), ("by row", 0):
            command = [sys.executable, "-m", "benchmarks.folder", "--read", folder, "--kept", str(kept)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peak, reading, training = map(float, said)
            print(
                f"{given.pictures:,} pictures {way:9}  peak {peak:.2f} GB (limit {LIMIT})  "
                f"read {reading:.1f} s, one epoch {training:.1f} s"
            )
            if peak > LIMIT:
                sys.exit(f"The peak is above {LIMIT} GB.")


def write(folder: Path, n: int) -> None:
    """`n` JPEGs of 3 x 64 x 64 in ten class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(n):
        path = folder / f"class{number % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path, quality=80)


def epoch(folder: Path, kept: int) -> None:
    """Print the peak in GB, and the seconds of reading the folder and of one epoch of shuffled batches."""
    import torch

    from stealguard import data
    from stealguard.data import pictures

    pictures.KEPT = kept
    start = time.perf_counter()
    task = data.task(f"folder:{folder}")
    assert len(task.hash) == 64
    read = time.perf_counter() - start
    for rows in torch.randperm(len(task.train.x)).split(BATCH):
        assert task.train.x[rows].dtype == torch.float32
    done = time.perf_counter() - start - read
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, in KiB elsewhere
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, read, done)


if __name__ == "__main__":
    main()
