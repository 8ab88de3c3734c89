"""Protect with data of your own: a folder of class folders with pictures, and NumPy arrays."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import stealguard as sg


def pictures(n: int, low: int, high: int) -> np.ndarray:
    """Gray pictures (n, 28, 28), uint8, with pixels from `low` to `high`."""
    return np.random.default_rng(low).integers(low, high, (n, 28, 28), dtype=np.uint8)


def main() -> None:
    classes = {"dark": pictures(60, 0, 120), "light": pictures(60, 136, 256)}
    protect = partial(sg.protect, "lenet5", defense="none", epochs=30, overwrite=True, progress=False)

    for name, images in classes.items():
        folder = Path("pictures", name)
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number}.png")
    release = protect(data="folder:pictures", out="runs/from-folder")
    print(f"folder: {release.recipe['classes']} classes, one picture in six is held out for testing")

    x = np.concatenate(list(classes.values()))[:, None]  # (120, 1, 28, 28), uint8: 255 stands for 1
    y = np.repeat([0, 1], 60)
    release = protect(data=(x, y), classes=["dark", "light"], out="runs/from-arrays")
    answers = release.box(torch.from_numpy(x[[0, -1]]).float() / 255)
    print("arrays: the classes of a dark and of a light picture are", answers.argmax(dim=1).tolist())


if __name__ == "__main__":
    main()
