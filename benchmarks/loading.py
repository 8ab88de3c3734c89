"""Data larger than memory: peak memory of an epoch on JPEGs of 3 x 224 x 224, and its time against torch's DataLoader.

    python -m benchmarks.loading --pictures 1000 --rounds 3

Pictures are decoded by row, whatever their number. The peak is that of a process of its own for `--pictures` of them,
and for five times as many: it is flat if both are alike. The limit is 2 GB, of which torch's libraries take about 0.25.
Times are those of `fit` on a folder and on shards, and of the same steps on a DataLoader with the same decoder,
interleaved in one run; each has as many threads or worker processes as there are cores, and torch has one thread.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
from benchmarks.measure import heading, interleaved, ratio
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stealguard import data
from stealguard.data import pictures
from stealguard.data.generated import shaped
from stealguard.training import Training, fit
from stealguard.training.combine import total
from stealguard.training.losses import task_loss
from stealguard.types import Batch

LIMIT = 2.0  # GB
TRAINING = Training(epochs=1, batch=64)
WORKERS = os.cpu_count() or 1
DISTINCT = 200  # pictures; the others are copies of them


class Files(Dataset[tuple[Tensor, int]]):
    """The folder's pictures as a Dataset, with the decoder of `data.task`."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob("train/*/*.jpg"))
        self.words = sorted({path.parent.name for path in self.paths})

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels = pictures.decode(self.paths[i], color=True)
        return torch.from_numpy(pixels).float().div_(255), self.words.index(self.paths[i].parent.name)


def write(folder: Path, n: int) -> None:
    """`n` JPEGs in ten class folders and a few to test with, and the same as a shard."""
    from PIL import Image

    images = shaped.at("textures", (3, 224, 224))
    files = []
    for number in range(DISTINCT):
        out = io.BytesIO()
        pixels = (images[number] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((56, 56)).resize((224, 224)).save(out, "jpeg", quality=85)
        files.append(out.getvalue())
    for split, size in ("train", n), ("test", 20):
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for number in range(size):
                content, kind = files[number % DISTINCT], number % 10
                path = folder / "pictures" / split / f"class{kind}" / f"{number:06}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                for name, part in (f"{number:06}.jpg", content), (f"{number:06}.cls", b"%d" % kind):
                    info = tarfile.TarInfo(name)
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )


def ours(task: data.Task) -> None:
    fit(small(), task.train.x, task.train.y, TRAINING, seed=0, progress=False)


def loader(files: Files) -> None:
    """The steps of `fit` on the batches of a DataLoader."""
    net = small().train()
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, TRAINING.lr, TRAINING.momentum, weight_decay=TRAINING.weight_decay)
    for x, y in DataLoader(files, TRAINING.batch, shuffle=True, num_workers=WORKERS, drop_last=True):
        total(list(task_loss(net, Batch(x, y, None)).values()), parameters)
        optimizer.step()


def peak(data_name: str) -> None:
    """Print this process's peak in GB after one epoch on the data."""
    torch.set_num_threads(1)
    pictures.KEPT = 0
    ours(data.task(data_name))
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, in KiB elsewhere
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak)
        return
    torch.set_num_threads(1)
    pictures.KEPT = 0
    print(heading(given.rounds, 1))
    with tempfile.TemporaryDirectory() as made:
        for n in given.pictures, 5 * given.pictures:
            folder = Path(made) / str(n)
            folder.mkdir()
            write(folder, n)
            for kind, name in ("folder", f"folder:{folder}/pictures"), ("shards", f"wds:{folder}/*.tar"):
                command = [sys.executable, "-m", "benchmarks.loading", "--peak", name]
                found = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"{n:,} pictures in a {kind:7}  peak {found:.2f} GB (limit {LIMIT})", flush=True)
                if found > LIMIT:
                    sys.exit(f"The peak is above {LIMIT} GB.")
        folder = Path(made) / str(given.pictures)
        tasks = {kind: data.task(name) for kind, name in (
            ("folder", f"folder:{folder}/pictures"), ("shards", f"wds:{folder}/*.tar"))}  # fmt: skip
        files = Files(folder / "pictures")
        seconds = interleaved({
            "folder": lambda: ours(tasks["folder"]), "shards": lambda: ours(tasks["shards"]),
            "DataLoader": lambda: loader(files),
        }, given.rounds)  # fmt: skip
        best = min(seconds["folder"])
        print(f"{given.pictures:,} pictures, {WORKERS} workers: {given.pictures / best:.0f} images/s at best")
        for kind in tasks:
            print(f"{kind} / DataLoader   {ratio(seconds, kind, 'DataLoader')}")


if __name__ == "__main__":
    main()
