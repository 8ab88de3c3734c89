"""Whether the time of a response tells what is answered: `python -m benchmarks.answer_timing`.

A server without keys, on core 0, answers digits and letters in a drawn order, one input a request. Suspects of
`ini-robust` get decoys. For each model it prints the area under the ROC curve of the seconds of one group against the
other's, with a 95 % interval: 0.5 means that time tells nothing.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.servers import started
from benchmarks.serving import binary_body, releases

import stealguard as sg
from stealguard.boxes.base import outputs_of
from stealguard.data import images, task
from stealguard.defenses import ModelGuardW
from stealguard.defenses.suspicion import odds
from stealguard.releases.export import export


def area(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve, and the half width of its 95 % interval (Hanley and McNeil, 1982)."""
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    a, n, m = float((below + up_to).mean() / 2 / len(negative)), len(positive), len(negative)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    return a, 1.96 * ((a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m)) ** 0.5


def seconds_of(port: int, name: str, x: np.ndarray, repeats: int) -> np.ndarray:
    """Seconds until each input's answer was there, the least of some repeats: what other load adds is not of interest.

    Requests come one at a time over one connection, in an order that is drawn for each repeat.
    """
    connection, found = http.client.HTTPConnection("127.0.0.1", port), np.full(len(x), np.inf)
    draw = np.random.default_rng(0)
    for i in np.concatenate([draw.permutation(len(x)) for _ in range(repeats)]):
        body = binary_body(np.ascontiguousarray(x[i : i + 1], "<f4"))
        start = time.perf_counter()
        connection.request("POST", f"/v2/models/{name}/infer", body.data, dict(body.headers))
        response = connection.getresponse()
        response.read()
        found[i] = min(found[i], time.perf_counter() - start)
        if response.status != 200:
            raise SystemExit(f"{name} answers with status {response.status}")
    connection.close()
    return found


@contextmanager
def server(releases: Sequence[Path], folder: Path) -> Iterator[int]:
    """The port of a server of these releases on core 0, which asks for no key."""
    settings = folder / "server.yaml"
    lines = [f"  - {path.resolve()}" for path in releases]
    settings.write_text("\n".join(["releases:", *lines, "open: true", "allow_same_weights: true", "port: 0"]))
    command = ["taskset", "-c", "0", sys.executable, "-m", "stealguard", "serve", "--config", str(settings)]
    with started(command, folder) as (_, port):
        yield port


class Timed(NamedTuple):
    """A release, and in which two groups inputs (N, *shape) are, by the name of the difference."""

    release: sg.Release
    groups: dict[str, np.ndarray]


def timed(home: Path, folder: Path, x: torch.Tensor, outlier: np.ndarray) -> dict[str, Timed]:
    """The nets of the releases `plain` and `robust` under defenses, exported.

    The robust net is served as it is, but with decoys for suspects; and, so that half of the answers are decoys
    whatever the account has asked before, as strict as the median of the inputs' odds, without a limit of suspicion.
    """
    robust = sg.load(home / "robust")
    with torch.no_grad():
        found = odds(outputs_of(robust.model.heads(), x))
    middle = float(found.median())
    decoys = replace(robust.defense, suspects="decoys")
    halved = replace(decoys, strictness=middle, floor=middle, suspicion=1e9)
    releases = {
        "ini-robust": Timed(sg.guarded(robust, decoys, folder / "r"), {"letter or digit": outlier}),
        "ini-robust, half decoys": Timed(
            sg.guarded(robust, halved, folder / "h"), {"decoy or not": (found <= middle).numpy()}
        ),
        "modelguard-w": Timed(
            sg.guarded(sg.load(home / "plain"), ModelGuardW(), folder / "m"), {"letter or digit": outlier}
        ),
    }
    for one in releases.values():
        export(one.release)
    return releases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answer_timing", description=__doc__)
    parser.add_argument("--releases", type=Path, help="a folder with releases `plain` and `robust` of MNIST")
    parser.add_argument("--inputs", type=int, default=1000, help="of each group")
    parser.add_argument("--repeats", type=int, default=10, help="of each input, of which the quickest counts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    n = given.inputs
    x = torch.cat([task("mnist").test.x[:n], images("letters")[:n]])
    with tempfile.TemporaryDirectory() as name:
        served = timed(given.releases or releases(Path(name)), Path(name), x, np.arange(len(x)) >= n)
        with server([one.release.folder for one in served.values()], Path(name)) as port:
            for model, (release, groups) in served.items():
                seconds_of(port, release.folder.name, x[:200].numpy(), 1)  # warms up
                seconds = seconds_of(port, release.folder.name, x.numpy(), given.repeats)
                for what, group in groups.items():
                    a, around = area(seconds[group], seconds[~group])
                    print(f"{model:24} {what:16} AUC {a:.3f} +- {around:.3f}  ({group.sum():,} and {(~group).sum():,} "
                          f"inputs, median {1e6 * np.median(seconds):.0f} us)")  # fmt: skip


if __name__ == "__main__":
    main()
