"""A server's cost of a request, against other servers: `python -m benchmarks.serving` (needs wrk, fastapi, litserve).

Every contender runs in a process of its own on core 0, and wrk loads one after the other from core 1, in turns. CPU is
what the server's processes used, in microseconds a request; a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import numpy as np
from benchmarks.measure import heading

import stealguard as sg
from stealguard.data import task
from stealguard.releases.export import export, onnx_runtime

TICK = os.sysconf("SC_CLK_TCK")


class Body(NamedTuple):
    """What is posted: the bytes, and the headers that go with them."""

    data: bytes
    headers: Mapping[str, str]


class Load(NamedTuple):
    """One measurement: a body to a server from so many connections."""

    server: str
    path: str
    body: Body
    connections: int


class Cost(NamedTuple):
    """Microseconds of CPU and of wall time a request."""

    cpu: float
    wall: float


# Bodies -----------------------------------------------------------------------------------------------------


def json_body(x: np.ndarray) -> Body:
    data = [round(v, 6) for v in x.ravel().tolist()]
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": data}
    return Body(json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"})


def binary_body(x: np.ndarray) -> Body:
    """A binary tensor as the Open Inference Protocol writes it."""
    parameters = {"binary_data_size": x.nbytes}
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "parameters": parameters}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return Body(header + x.tobytes(), {"Inference-Header-Content-Length": str(len(header))})


def raw_body(x: np.ndarray) -> Body:
    return Body(x.tobytes(), {"Content-Type": "application/octet-stream"})


# Servers ----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """A running server, pinned to core 0."""

    def __init__(self, command: Sequence[str], port: int, ready: str, log: Path):
        self.port = port
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pinned = ["taskset", "-c", "0", sys.executable, "-m", *command]
        with log.open("wb") as file:
            self._process = subprocess.Popen(pinned, env=environment, stdout=file, stderr=file)
        for _ in range(1200):
            try:
                with urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit(f"{command[0]} does not start:\n{log.read_text()}")

    def cpu_seconds(self) -> float:
        """Of the process and all of its descendants."""
        return sum(_ticks(pid) for pid in _family(self._process.pid)) / TICK

    def stop(self) -> None:
        for pid in reversed(_family(self._process.pid)):
            subprocess.run(["kill", str(pid)], check=False, stderr=subprocess.DEVNULL)
        self._process.wait()


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@contextmanager
def servers(home: Path, folder: Path) -> Iterator[tuple[dict[str, Server], str]]:
    """Ours without keys, ours with keys and a ledger, and the others; and a key. `home` has the releases."""
    onnx, ledger = str(home / "plain" / "model.onnx"), str(folder / "ledger.sqlite")
    add = [sys.executable, "-m", "stealguard", "keys", "add", "bench", "--ledger", ledger]
    key = subprocess.run(add, check=True, capture_output=True, text=True).stdout.strip()
    ours = ["stealguard", "serve", str(home / "plain"), str(home / "robust"), "--port"]
    commands = {
        "ours": [*ours, "{port}", "--open"],
        "ours, keys": [*ours, "{port}", "--ledger", ledger],
        "fastapi": ["benchmarks.servers.fastapi_onnx", onnx, "{port}"],
        "litserve": ["benchmarks.servers.litserve_onnx", onnx, "{port}"],
    }
    ready = {"ours": "/v2/health/ready", "ours, keys": "/v2/health/ready", "fastapi": "/docs", "litserve": "/health"}
    with ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            port = free_port()
            words = [word.format(port=port) for word in command]
            running[name] = Server(words, port, ready[name], folder / f"{name}.log")
            stack.callback(running[name].stop)
        yield running, key


# Measuring --------------------------------------------------------------------------------------------------

SCRIPT = """
local file = io.open("{path}", "rb")
wrk.method, wrk.body = "POST", file:read("*all")
{headers}
"""


def measure(load: Load, server: Server, key: str, seconds: float, folder: Path) -> Cost:
    """Load a server, and divide what it used by the number of its answers; any error ends the benchmark."""
    data, script = folder / "body", folder / "load.lua"
    data.write_bytes(load.body.data)
    headers = {**load.body.headers, "Authorization": f"Bearer {key}"}
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(SCRIPT.format(path=data, headers=lines))
    url = f"http://127.0.0.1:{server.port}{load.path}"
    wrk = [
        "taskset",
        "-c",
        "1",
        "wrk",
        "-t1",
        "--timeout",
        "30s",
        f"-c{load.connections}",
        f"-d{seconds}s",
        "-s",
        str(script),
        url,
    ]
    before = server.cpu_seconds()
    found = subprocess.run(wrk, check=True, capture_output=True, text=True).stdout
    used = server.cpu_seconds() - before
    if "Non-2xx" in found or "Socket errors" in found:
        raise SystemExit(f"{load.server} does not answer all requests to {load.path}:\n{found}")
    requests = int(re.search(r"(\d+) requests in", found)[1])  # type: ignore[index]
    if not requests:
        raise SystemExit(f"{load.server} answers nothing within {seconds} s: pass a greater --seconds.")
    return Cost(1e6 * used / requests, 1e6 * seconds / requests)


def loads(x: np.ndarray) -> dict[str, dict[str, Load]]:
    """For each kind of request, what each server gets."""
    one, many = x[:1], x[:64]

    def ours(body: Body, connections: int) -> dict[str, Load]:
        found = {name: Load(name, "/v2/models/plain/infer", body, connections) for name in ("ours", "ours, keys")}
        return found | {"ours, robust": Load("ours", "/v2/models/robust/infer", body, connections)}

    def others(path: str, body: Body, connections: int) -> dict[str, Load]:
        names = ("fastapi", "litserve") if path == "/json" else ("fastapi",)
        return {name: Load(name, path, body, connections) for name in names}

    return {
        "JSON, 1 image, 16 connections": ours(json_body(one), 16) | others("/json", json_body(one), 16),
        "JSON, 64 images, 16 connections": ours(json_body(many), 16) | others("/json", json_body(many), 16),
        "binary, 1 image, 16 connections": ours(binary_body(one), 16) | others("/binary", raw_body(one), 16),
        "binary, 1 image, 200 connections": ours(binary_body(one), 200) | others("/binary", raw_body(one), 200),
        "binary, 64 images, 16 connections": ours(binary_body(many), 16) | others("/binary", raw_body(many), 16),
    }


def ratio(costs: Mapping[str, Sequence[Cost]], above: str, below: str, field: int = 0) -> str:
    found = sorted(a[field] / b[field] for a, b in zip(costs[above], costs[below], strict=True))
    return f"{statistics.median(found):6.2f}  ({found[0]:.2f} - {found[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--releases", type=Path, help="a folder with exported releases `plain` and `robust` of MNIST")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load, for each contender in each round")
    parser.add_argument("--kind", default="", help="only the kinds of request with this in their name")
    given = parser.parse_args()
    print(heading(given.rounds, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = given.releases or releases(folder / "releases")
        x = np.ascontiguousarray(task("mnist").test.x[:64].numpy(), "<f4")
        with servers(home, folder) as (running, key):
            alone = Direct(home / "plain" / "model.onnx", x)
            for kind, wanted in loads(x).items():
                if given.kind not in kind:
                    continue
                costs: dict[str, list[Cost]] = {server: [] for server in wanted}
                if kind.startswith("binary, 64"):
                    costs["onnxruntime"] = []
                for number in range(given.rounds + 1):
                    for server in sorted(costs, reverse=number % 2 == 1):
                        if server == "onnxruntime":
                            cost = alone()
                        else:
                            load = wanted[server]
                            cost = measure(load, running[load.server], key, given.seconds, folder)
                        if number:  # the first round warms up
                            costs[server].append(cost)
                tell(kind, costs)


def tell(kind: str, costs: Mapping[str, Sequence[Cost]]) -> None:
    print(f"\n{kind}")
    for server, found in costs.items():
        cpu, wall = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"  {server:12} {cpu:9.0f} us CPU {wall:9.0f} us wall")
    for server in costs:
        if not server.startswith("ours"):
            print(
                f"  {server + ' / ours':22} CPU {ratio(costs, server, 'ours')}   wall {ratio(costs, server, 'ours', 1)}"
            )
    for more in ("ours, keys", "ours, robust"):
        print(f"  {more + ' / ours':22} CPU {ratio(costs, more, 'ours')}")


class Direct:
    """ONNX Runtime alone, without a server, on the servers' core."""

    def __init__(self, model: Path, x: np.ndarray):
        onnxruntime = onnx_runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._x = x

    def __call__(self, runs: int = 400) -> Cost:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {0})
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(runs):
            self._session.run(["probabilities"], {"input": self._x})
        cost = Cost(1e6 * (time.process_time() - cpu) / runs, 1e6 * (time.perf_counter() - wall) / runs)
        os.sched_setaffinity(0, cores)
        return cost


def releases(home: Path) -> Path:
    """An undefended release and one of the default defense, trained for a moment, and exported."""
    mnist = task("mnist")
    data = (mnist.train.x[:3000], mnist.train.y[:3000], mnist.test.x[:500], mnist.test.y[:500])
    # All requests come from one account, which must not be refused: a suspect is answered with decoys.
    robust = replace(sg.PRESETS["ini-robust"].defense, suspects="decoys")
    for name, defense in (("plain", sg.PRESETS["none"].defense), ("robust", robust)):
        release = sg.protect("lenet5", data=data, outliers=["letters"], defense=defense, epochs=1, out=home / name)
        export(release)
    return home


if __name__ == "__main__":
    main()
