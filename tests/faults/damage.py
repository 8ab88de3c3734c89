"""Ways to spoil bytes, JSON data, arrays, archives and names, each drawn from a random number generator."""

from __future__ import annotations

import copy
import json
import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

# Values ------------------------------------------------------------------------------------------------------

NAMES = ["a\nb", "[/x]", "[red]x", "\udcff", "é\u202e", "x" * 255, "x" * 300, " ", "-x", "~", "..", "a;b", "\U0001f600"]
TEXTS = [
    "", "x", "=", "a=b", "--", "-1", "0", "1e400", "9" * 5_000, "nan", "inf", "true", "null", "[/x]", "{}", "[", "*",
    "/", "/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem", ".", "..", "x" * 5_000, "\udcff", "\U0001f600",
    "a\nb", "npz:", "npz:/", "folder:", "folder:/dev", "own:", "own:x", "own:" + "9" * 5_000, "own:²", "module:", ":x",
    "..:x", "json:loads", "os:abort", "cuda:99", "meta", "none", "ini", "quick", "hard", "soft", "!!int x", "&a [*a]",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3.7, -0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, -(2**63) - 1,
    *TEXTS, [], {}, [[]], [None], [1, 2], ["x"], {"x": 1}, {"": None}, [[1, [2, [3]]]], {"a": {"b": {"c": []}}},
    [0] * 99,
]  # fmt: skip


def deep(levels: int) -> list[Any]:
    """Lists within lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within JSON data, but for the whole."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [path_ for key, part in items for path_ in [(*path, key), *places(part, (*path, key))]]


def respoiled(draw: Random, value: Any, values: list[Any] = VALUES) -> Any:
    """JSON data in which one to three places were changed, dropped, added or moved."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        known = places(value)
        if not known:
            return draw.choice(values)
        *outer, last = draw.choice(known)
        inside = value
        for key in outer:
            inside = inside[key]
        match draw.randrange(8):
            case 0:
                del inside[last]
            case 1:
                inside[last] = [inside[last]]
            case 2 if isinstance(inside, dict):
                inside[draw.choice(["x", "", "format", "[/x]", "name"])] = draw.choice(values)
            case 3 if isinstance(inside[last], int | float) and not isinstance(inside[last], bool):
                inside[last] = draw.choice([-inside[last], inside[last] + 1, inside[last] * 10**6, str(inside[last])])
            case 4 if isinstance(inside, dict):
                other = draw.choice(list(inside))
                inside[last], inside[other] = inside[other], inside[last]
            case _:
                inside[last] = draw.choice(values)
    return value


def written(draw: Random, value: Any) -> str:
    """JSON text of data that may not fit into JSON; now and then damaged as text."""
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5, default=str)
    if draw.random() < 0.1:
        text = text.replace(":", ": " + "[" * draw.choice([1, 500, 100_000]), 1)
    return text


# Bytes -------------------------------------------------------------------------------------------------------


def spoiled(draw: Random, data: bytes) -> bytes:
    """Bytes of which some are cut off, changed, left out, doubled or put in; often near the beginning or the end."""
    n = len(data)
    near = draw.choice([n, min(n, 64), min(n, 400)])
    start = draw.randrange(near + 1) if draw.random() < 0.7 else n - draw.randrange(near + 1)
    size = draw.choice([1, 2, 4, 8, 64, 1024])
    noise = draw.randbytes(size)
    match draw.randrange(12):
        case 0:
            return data[:start]
        case 1:
            return data[: n - draw.randrange(1, 9)]
        case 2 | 3 | 4:
            changed = bytearray(data or b"\0")
            for _ in range(draw.choice([1, 1, 2, 8])):
                place = min(
                    len(changed) - 1, draw.randrange(near + 1) if draw.random() < 0.7 else draw.randrange(n + 1)
                )
                changed[place] = draw.choice([0, 255, changed[place] ^ 1 << draw.randrange(8), draw.randrange(256)])
            return bytes(changed)
        case 5:
            return data[:start] + draw.choice([b"\0", b"\xff", b"9"]) * size + data[start + size :]
        case 6:
            return data[:start] + noise + data[start + size :]
        case 7:
            return data[:start] + data[start + size :]
        case 8:
            return data[:start] + noise + data[start:]
        case 9:
            return data[:start] + data[start : start + size] * draw.choice([2, 100]) + data[start + size :]
        case 10:
            return draw.choice([b"", b"\0", b"\xef\xbb\xbf" + data, data * 2, data[n // 2 :] + data[: n // 2]])
        case _:
            return draw.randbytes(draw.choice([1, 100, 5_000]))


# Files that are no files -------------------------------------------------------------------------------------


def replaced(draw: Random, path: Path) -> None:
    """Something else is where a file was: nothing, a folder, a pipe, a device, a loop of links, or no permission."""
    kind = draw.randrange(11)
    if kind == 0:
        path.chmod(0)
        return
    if kind == 1:
        path.parent.chmod(0o500)
        return
    path.unlink()
    match kind:
        case 2:
            path.mkdir()
        case 3:
            os.mkfifo(path)
        case 4 | 5 | 6:
            path.symlink_to(
                draw.choice(["/dev/zero", "/dev/urandom", "/dev/full", "/dev/null", "/dev/tty", "/proc/self/mem"])
            )
        case 7:
            path.symlink_to(path.name)
        case 8:
            path.symlink_to(draw.choice(["nothing", "/", ".", "/etc", "x" * 300]))
        case 9:
            with socket.socket(socket.AF_UNIX) as made:
                # The path of a socket is short; a name in the folder is enough.
                here = os.open(".", os.O_RDONLY)
                os.chdir(path.parent)
                made.bind(path.name[:90])
                os.fchdir(here)
                os.close(here)
        case _:
            pass


# Arrays and archives -----------------------------------------------------------------------------------------

DESCRIPTIONS = ["<f4", ">f8", "|O", "|V8", "<U4000000000", "|S0", "<c16", "<M8[s]", "", "f4,i4", "[('a','<f4')]", "|b1"]
SHAPES = [
    "(10, 10)", "(1000000000000,)", "(-1,)", "()", "(0,)", "(0, 1, 6, 6)", "(9**9**9,)", "(1.5,)", "None", "'x'", "(",
    "(True, 2)", "(" * 3000, "(1,) * 10**9", "(4611686018427387904, 4)", "(2, 3), 'x': 1", "(60, 1, 6, 6)",
]  # fmt: skip


def strange_array(draw: Random, x: Any) -> Any:
    """An array of another type, shape or content."""
    x = np.asarray(x)
    flat = x.reshape(-1)
    makes = [
        lambda: x * np.nan, lambda: np.where(x == flat[0], np.inf, x), lambda: x - 10**6, lambda: x * 10**30,
        lambda: x.astype(str), lambda: x.astype(object), lambda: x.astype(complex), lambda: x.astype(bool),
        lambda: x.astype(np.float16), lambda: x.astype(">f8"), lambda: x.astype(np.uint8), lambda: x.astype(np.int64),
        lambda: x[:0], lambda: x[:1], lambda: x[:2], lambda: x[None], lambda: flat, lambda: np.float32(1),
        lambda: x[..., :0], lambda: x[..., None, None, None, None], lambda: np.asfortranarray(x), lambda: x[::-1],
        lambda: np.zeros(len(x) if x.ndim else 1, [("a", "<f4"), ("b", "<i8")]), lambda: x.astype("M8[s]"),
        lambda: np.array(["[/x]", "a\nb", "\U0001f600"] * 20), lambda: np.zeros_like(x), lambda: np.repeat(x, 2,
        axis=0),
        lambda: x.astype(np.uint64) + 2**63, lambda: np.array([b"\xff", b""] * 30), lambda: np.zeros((5,) * 20,
        "<f4")[:0],
        lambda: np.full_like(x, -1), lambda: x + 1, lambda: x * 2, lambda: np.zeros((3, 1, 1, 1), np.float32),
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        try:
            return draw.choice(makes)()
        except (ValueError, TypeError, OverflowError, IndexError):
            return np.zeros(3)


def npy(array: Any, header: str | None = None, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """An .npy file, with another header than the array's if one is given."""
    x = np.ascontiguousarray(array)
    text = header or repr({"descr": x.dtype.str, "fortran_order": False, "shape": x.shape})
    encoded = text.encode("latin1", "replace")
    encoded += b" " * (-(len(encoded) + 11) % 64) + b"\n"
    size = len(encoded) if length is None else length
    packed = struct.pack("<H", size & 0xFFFF) if version == (1, 0) else struct.pack("<I", size & 0xFFFFFFFF)
    return b"\x93NUMPY" + bytes(version) + packed + encoded + (b"" if x.dtype.hasobject else x.tobytes())


def strange_npy(draw: Random, array: Any) -> bytes:
    """An .npy file whose header is damaged, or claims what is not there."""
    x = np.ascontiguousarray(array)
    fields = {"'descr'": repr(x.dtype.str), "'fortran_order'": "False", "'shape'": repr(x.shape)}
    match draw.randrange(6):
        case 0:
            fields["'shape'"] = draw.choice(SHAPES)
        case 1:
            fields["'descr'"] = draw.choice([repr(draw.choice(DESCRIPTIONS)), "1", "None", "[('a', '<f4')]", "x"])
        case 2:
            fields.pop(draw.choice(list(fields)))
        case 3:
            fields["'fortran_order'"] = draw.choice(["True", "1", "'x'", "None", "__import__('os').abort()"])
        case 4:
            return npy(x, draw.choice(["", "x", "{" * 9000, "\0", "{'a'", "é", "{1: 2}", "-" * 60_000 + "1"]))
        case _:
            version = draw.choice([(1, 0), (2, 0), (3, 0), (0, 0), (9, 9)])
            return npy(x, None, version, draw.choice([None, 0, 1, 65_535, 2**32 - 1]))
    return npy(x, "{" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}")


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)


def zeros(path: Path, name: str, array: str, size: int) -> None:
    """An archive of a few thousand bytes whose array is `size` bytes of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made, made.open(name, "w", force_zip64=True) as file:
        file.write(npy(np.zeros(0, "<f4"), f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({array})}}"))
        block = bytes(2**20)
        for _ in range(size // len(block)):
            file.write(block)


# Pictures ----------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, color: int = 0, data: bytes | None = None) -> bytes:
    """A PNG file whose header says what one likes."""
    if data is None:
        data = zlib.compress(bytes(min(width, 64) * min(height, 64) + min(height, 64)))
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, bits, color, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


TEXT = zlib.compress(bytes(2**26))  # of a picture, which says nothing at length


def strange_picture(draw: Random) -> tuple[str, bytes]:
    """The suffix and the content of a file that is hardly a picture: a bomb, a header that lies, another format."""
    choices: list[tuple[str, bytes]] = [
        (".png", png(60_000, 60_000)), (".png", png(2**31 - 1, 1)), (".png", png(0, 0)), (".png", png(9_000, 10_500)),
        (".png", png(6, 6, png_chunk(b"zTXt", b"a\0\0" + TEXT))), (".png", png(6, 6, png_chunk(b"iCCP",
        b"a\0\0" + TEXT))),
        (".png", png(6, 6, bits=3)), (".png", png(6, 6, color=9)), (".png", png(6, 6, color=3)),
        (".png", png(6, 6, data=TEXT)), (".png", png(6, 6, png_chunk(b"eXIf", b"II*\0" + b"\xff" * 40))),
        (".png", png(6, 6, png_chunk(b"acTL", b"\xff" * 8))), (".png", png(6, 6, bits=16)),
        (".gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + b"\0" * 6 + b","),
        (".bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0,
        0)),
        (".svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), (".png", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        (".eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n"), (".ppm", b"P6 6 6 255 "), (".ppm",
        b"P6 99999 99999 255\n"),
        (".pgm", b"P5 6 6 99999999999999999999\n"), (".xbm", b"#define a_width 6\n#define a_height 6\n"),
        (".tga", bytes(18)), (".ico", b"\0\0\1\0\xff\xff" + bytes(40)), (".tif",
        b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60),
        (".jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xda"), (".jp2",
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50)),
        (".webp", b"RIFF\xff\xff\xff\xffWEBPVP8X\n\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff"), (".png", b""), (".qoi",
        b"qoif" + b"\xff" * 10),
    ]  # fmt: skip
    return draw.choice(choices)
