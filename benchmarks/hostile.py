"""A server under hostile requests: `python -m benchmarks.hostile RELEASE` (a release of images, better exported).

For 30 seconds, half of 200 connections send good requests, and compare each answer with the release's own. The others
send malformed, truncated, huge, wrong and compressed bodies, bombs, and requests that drip. All have a valid key, so
that nothing is refused before it is read. It prints what became of each kind, and the server's memory.

The release's guard must remember nothing: all good requests come from one account, and what a guard with memory answers
to one depends on those before it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.servers import started

import stealguard as sg

PATH = "/v2/models/served/infer"
TOLERANCE = 1e-5
MIB = 2**20


class Good(NamedTuple):
    """A request, and the answers (N, K) that it should get."""

    raw: bytes
    answers: np.ndarray


class Seen:
    """What became of the requests of each kind, and how far good answers were off at most."""

    def __init__(self) -> None:
        self.ends: dict[str, Counter[str]] = defaultdict(Counter)
        self.off = 0.0
        self.seconds: list[float] = []


def request(key: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    first = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}"]
    first += [f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*first, "", ""]).encode() + body


def tensor(shape: list[int], data: str) -> bytes:
    return f'{{"inputs": [{{"name": "input", "datatype": "FP32", "shape": {shape}, "data": {data}}}]}}'.encode()


def good_requests(release: sg.Release, key: str, answers: Callable[[np.ndarray], np.ndarray]) -> list[Good]:
    """Requests of 1 to 8 inputs, JSON and binary in turns."""
    generator, found = np.random.default_rng(0), []
    for n in [1, 2, 3, 8] * 4:
        x = generator.random((n, *release.shape), np.float32)
        shape = list(x.shape)
        if len(found) % 2:
            about = {"name": "input", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": x.nbytes}}
            text = json.dumps({"inputs": [about]}).encode()
            raw = request(key, text + x.astype("<f4").tobytes(), f"Inference-Header-Content-Length: {len(text)}")
        else:
            raw = request(key, tensor(shape, json.dumps(x.ravel().tolist())))
        found.append(Good(raw, answers(x)))
    return found


def hostile_requests(key: str, shape: tuple[int, ...]) -> dict[str, Callable[[random.Random], bytes]]:
    """For each kind, what makes the bytes of a request; every one should end with an error or a closed connection."""
    size = int(np.prod(shape))
    flat = json.dumps([0.5] * size)
    fine, one = tensor([1, *shape], flat), [1, *shape]
    bomb, small_bomb = gzip.compress(bytes(256 * MIB), 9), gzip.compress(b"[" * (8 * MIB), 9)
    many = tensor([1024, *shape], "[" + "0.5," * (1024 * size - 1) + "]")
    wrong = [
        tensor([2, *shape], flat), tensor([0, *shape], "[]"), tensor([-1, *shape], flat), tensor([1, size + 1], flat),
        tensor([2**62, *shape], flat), tensor(one, "[true]"), tensor(one, '"x"'), tensor(one, "null"),
    ]  # fmt: skip

    def malformed(draw: random.Random) -> bytes:
        spoiled = bytearray(fine)
        for _ in range(1 + draw.randrange(20)):
            spoiled[draw.randrange(200)] = draw.randrange(256)
        return request(key, bytes(spoiled))

    def infinite(draw: random.Random) -> bytes:
        return request(key, tensor(one, flat.replace("0.5", draw.choice(["NaN", "Infinity", "1e400", "1e39"]), 1)))

    def binary(draw: random.Random) -> bytes:
        values = np.full(size, draw.choice([np.nan, np.inf, 1e38, -5.0]), "<f4").tobytes()
        about = {"name": "input", "datatype": "FP32", "shape": one, "parameters": {"binary_data_size": len(values)}}
        text = json.dumps({"inputs": [about]}).encode()
        return request(
            key, text + values, f"Inference-Header-Content-Length: {len(text) + draw.choice([0, 1, 10**17])}"
        )

    return {
        "malformed JSON": malformed,
        "no HTTP": lambda draw: draw.randbytes(300) + b"\r\n\r\n",
        "long headers": lambda draw: request(key, fine, "X: " + "x" * 100_000),
        "truncated": lambda draw: request(key, fine[: draw.randrange(len(fine))], length=len(fine)),
        "wrong shape": lambda draw: request(key, draw.choice(wrong)),
        "NaN, infinite": infinite,
        "wrong binary": binary,
        "deep": lambda draw: request(key, b"[" * 100_000),
        "gzip bomb, 256 MiB": lambda draw: request(key, bomb, "Content-Encoding: gzip"),
        "gzip of 8 MiB lists": lambda draw: request(key, small_bomb, "Content-Encoding: gzip"),
        "announces 1 GiB": lambda draw: request(key, fine, length=2**30),
        "1,024 inputs and a comma": lambda draw: request(key, many),
        "endless chunks": lambda draw: request(key, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        + b"100000\r\n" + b" " * 2**20 + b"\r\n",
    }  # fmt: skip


async def response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of a response."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


@contextmanager
def closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.close()


async def ask(port: int, kind: str, made: list[Good], seen: Seen, end: float, number: int) -> None:
    """Good requests over one connection, which the server must keep."""
    turn, reader, writer = number, *await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    with closing(writer):
        while time.monotonic() < end:
            turn += 1
            raw, expected = made[turn % len(made)]
            start = time.perf_counter()
            writer.write(raw)
            status, body = await response(reader)
            seen.seconds.append(time.perf_counter() - start)
            if status != 200:
                seen.ends[kind][str(status)] += 1
                continue
            found = np.array(json.loads(body)["outputs"][0]["data"], np.float32).reshape(expected.shape)
            off = float(np.abs(found - expected).max())
            seen.off = max(seen.off, off)
            seen.ends[kind]["right" if off <= TOLERANCE else "WRONG"] += 1


async def attack(port: int, kind: str, make: Callable[[random.Random], bytes], seen: Seen, end: float, n: int) -> None:
    """One hostile request after the other, each over a new connection."""
    draw = random.Random(n)
    while time.monotonic() < end:
        seen.ends[kind][await _ended(port, make(draw), kind, end)] += 1


async def _ended(port: int, raw: bytes, kind: str, end: float) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            if kind == "truncated":  # the client goes
                writer.write(raw)
                await writer.drain()
                return "left"
            if kind == "endless chunks":
                head, _, chunk = raw.partition(b"\r\n\r\n")
                writer.write(head + b"\r\n\r\n")
                return await _status(reader, _poured(writer, chunk, end), end)
            writer.write(raw)
            return await _status(reader, writer.drain(), end)
    except (OSError, asyncio.IncompleteReadError):
        return "closed"


async def _poured(writer: asyncio.StreamWriter, chunk: bytes, end: float) -> None:
    while time.monotonic() < end:
        writer.write(chunk)
        await writer.drain()


async def _status(reader: asyncio.StreamReader, sending: Coroutine[None, None, None], end: float) -> str:
    """The status of a response that may come before all is sent."""
    task = asyncio.ensure_future(sending)
    try:
        return str((await asyncio.wait_for(response(reader), max(0.1, end + 5 - time.monotonic())))[0])
    except TimeoutError:
        return "no response"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def drip(port: int, kind: str, head: bytes, rest: bytes, seen: Seen, end: float) -> None:
    """After the head a byte twice a second, for as long as the server allows."""
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                writer.write(head)
                seen.ends[kind][await _dripped(reader, writer, rest, end)] += 1
        except OSError:
            seen.ends[kind]["closed"] += 1


async def _dripped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes, end: float) -> str:
    sending = asyncio.ensure_future(_slowly(writer, raw))
    try:
        data = await asyncio.wait_for(reader.read(100), max(0.1, end - time.monotonic()))
        return data.split(b" ")[1].decode() if data else "closed"
    except TimeoutError:
        return "open at the end"
    finally:
        sending.cancel()


async def _slowly(writer: asyncio.StreamWriter, raw: bytes) -> None:
    for byte in raw:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.5)


async def watch(pid: int, found: list[float], end: float) -> None:
    while time.monotonic() < end:
        found.append(resident(pid))
        await asyncio.sleep(0.1)


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


async def load(
    port: int, pid: int, good: list[Good], bad: dict[str, Callable[[random.Random], bytes]], key: str,
    connections: int, seconds: float,
) -> tuple[Seen, list[float]]:  # fmt: skip
    seen, found, end = Seen(), list[float](), time.monotonic() + seconds
    kinds = list(bad.items())
    whole = request(key, b"x" * 1_000)
    slow = {"drips headers": (b"", whole), "drips a body": (whole[:-1_000], whole[-1_000:])}
    tasks = [ask(port, "good", good, seen, end, i) for i in range(connections // 2)]
    for i in range(connections - len(tasks)):
        place = i % (len(kinds) + 2)
        if place < len(kinds):
            tasks.append(attack(port, *kinds[place], seen, end, i))
        else:
            name = list(slow)[place - len(kinds)]
            tasks.append(drip(port, name, *slow[name], seen, end))
    await asyncio.gather(watch(pid, found, end), *tasks)
    return seen, found


@contextmanager
def server(release: Path, folder: Path) -> Iterator[tuple[int, int, str]]:
    """Its process, its port and a key."""
    ledger = str(folder / "ledger.sqlite")
    program = [sys.executable, "-m", "stealguard"]
    add = [*program, "keys", "add", "bench", "--ledger", ledger]
    key = subprocess.run(add, check=True, capture_output=True, text=True).stdout.strip()
    messages = folder / "messages"
    command = [*program, "serve", str(release), "--name", "served", "--ledger", ledger, "--port", "0"]
    with started(command, folder) as (process, port):
        yield process.pid, port, key
        if process.poll() is not None:
            raise SystemExit(f"The server crashed:\n{messages.read_text()}")
        process.terminate()
        if process.wait(60):
            raise SystemExit(f"The server ended with status {process.returncode}:\n{messages.read_text()}")
        errors = [line for line in messages.read_text().splitlines() if line.startswith(("ERROR", "Traceback"))]
        print(f"errors in the server's messages: {len(errors)}", *errors[:5], sep="\n  ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--connections", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    release = sg.load(given.release)
    if release.model.guard.scope != "none":
        raise SystemExit(f"`{given.release}` remembers what was asked: its answers depend on that. Name another.")
    with tempfile.TemporaryDirectory() as name, server(given.release, Path(name)) as (pid, port, key):
        good = good_requests(release, key, lambda x: release.box(torch.from_numpy(x)).numpy())
        bad = hostile_requests(key, release.shape)
        asyncio.run(load(port, pid, good, {}, key, 20, 3.0))  # warms up
        before = resident(pid)
        seen, found = asyncio.run(load(port, pid, good, bad, key, given.connections, given.seconds))
        time.sleep(3.0)
        after = resident(pid)
        last, _ = asyncio.run(load(port, pid, good, {}, key, 20, 1.0))
    for kind, ends in sorted(seen.ends.items()):
        print(f"{kind:28}", ", ".join(f"{n:,} {end}" for end, n in sorted(ends.items())))
    seconds = sorted(seen.seconds)
    print(f"good answers are off by at most {seen.off:.1e}; seconds: median {seconds[len(seconds) // 2]:.3f}, "
          f"99 % {seconds[int(0.99 * len(seconds))]:.3f}, longest {seconds[-1]:.3f}")  # fmt: skip
    print("good requests afterwards:", dict(last.ends["good"]))
    third = len(found) // 3
    print(f"memory, MiB: {before:.0f} before, {max(found):.0f} at most ({max(found[:third]):.0f} in the first third, "
          f"{max(found[-third:]):.0f} in the last), {after:.0f} after")  # fmt: skip


if __name__ == "__main__":
    main()
