"""Images drawn from a seed alone: meaningless pen strokes, and textures. A defender's stand-ins for queries.

No font or photograph goes in, so an attacker has seen none of them. The size and place of strokes are those of MNIST.
`stroke_drawing` and `texture` make one image of any size, with the same distributions, as fine as its pixels are.

Random numbers are drawn in float32, whose bits are the same on every processor, and all that follows is computed in
float64: processors differ in its last bits, but no pixel depends on them, so the sets can be pinned by their hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import tau

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from stealguard.data.formats import Array, Arrays
from stealguard.progress import Tick, silent
from stealguard.seeds import derive

SIZE = 28  # pixels of a side
STROKES, POINTS = 4, 40  # of an image at most; of a stroke
LONGER = 20 / SIZE  # share of the image that the longer side of a drawing takes
TIE = 1e-6  # so that halves are rounded up, whatever their last bits
CHUNK = 250  # images at once: each pixel's distance to each point is held
BLURS = [3, 5, 9, 14]  # values to a side that noise is blurred from, and doubles of 14 up to one value a pixel


def strokes(n: int = 30_000, seed: int = 0, tick: Tick = silent) -> Arrays:
    """`n` images (n, 1, 28, 28) of one to four lines, curves and arcs, joined or not, in pens of all widths."""
    return _chunks(_pen_drawings, n, derive(seed, "strokes"), tick)


def textures(n: int = 20_000, seed: int = 0, tick: Tick = silent) -> Arrays:
    """`n` images (n, 1, 28, 28) of noise at all scales, smooth or split at a level, of waves and of plain shapes."""
    return _chunks(_textures, n, derive(seed, "textures"), tick)


def _chunks(draw: Callable[[int, Generator], Tensor], n: int, seed: int, tick: Tick) -> Arrays:
    rng = torch.Generator().manual_seed(seed)
    images = torch.empty(n, 1, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, n, CHUNK):
        part = images[start : start + CHUNK]
        part.copy_((255 * draw(len(part), rng) + TIE).round())
        tick(start + len(part))
    return {"x": images.numpy()}


def _axis(size: int) -> Tensor:
    """The middles of `size` pixels in [-1, 1]."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1


AXIS = _axis(SIZE)


# Strokes ----------------------------------------------------------------------------------------------------


def stroke_drawing(size: int, rng: Generator) -> Array:
    """One image (size, size), uint8, like those of `strokes`, drawn with a round pen at twice the size."""
    from PIL import Image, ImageDraw

    strokes = _fitted(_joined(_curves(1, rng), rng).flatten(1, 2), rng).view(STROKES, POINTS, 2)
    radius, ink = size * _between(0.035, 0.135, rng, 1).item(), round(255 * _between(0.75, 1, rng, 1).item())
    canvas = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(canvas)
    for stroke in (size * (strokes + 1)).tolist():
        draw.line([tuple(point) for point in stroke], fill=ink, width=max(1, round(2 * radius)))
        for x, y in stroke:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return np.asarray(canvas.reduce(2))


def _pen_drawings(n: int, rng: Generator) -> Tensor:
    """Images (n, 1, SIZE, SIZE) in [0, 1]: dark far from every point of the strokes, bright within half a pen."""
    points = _fitted(_joined(_curves(n, rng), rng).flatten(1, 2), rng)
    pixels = torch.stack([AXIS.repeat(SIZE), AXIS.repeat_interleave(SIZE)], dim=1)
    away = torch.cdist(pixels.expand(n, -1, -1), points).amin(dim=2)
    pen, edge, ink = _between(0.035, 0.135, rng, n, 1), _between(0.012, 0.022, rng, n, 1), _between(0.75, 1, rng, n, 1)
    return (ink * torch.sigmoid((pen - away) / edge)).view(n, 1, SIZE, SIZE)


def _curves(n: int, rng: Generator) -> Tensor:
    """Strokes (n, STROKES, POINTS, 2): a third arcs, and of the rest about half lines, half cubic curves.

    In six images of ten, control points are near those of a lattice of three by three, as those of letters are.
    """
    along = torch.linspace(0, 1, POINTS, dtype=torch.float64)[:, None]
    lattice = 0.62 * (torch.randint(3, (n, STROKES, 4, 2), generator=rng) - 1)
    near = lattice + 0.12 * _normal(rng, n, STROKES, 4, 2)
    free = _between(-0.75, 0.75, rng, n, STROKES, 4, 2)
    a, b, c, d = torch.where(_coin(0.6, rng, n, 1, 1, 1), near, free).unsqueeze(3).unbind(2)
    line = torch.lerp(a, d, along)
    cubic = (1 - along) ** 3 * a + 3 * along * (1 - along) ** 2 * b + 3 * along**2 * (1 - along) * c + along**3 * d
    radii = _between(0.2, 0.65, rng, n, STROKES, 1, 2)
    angle = tau * (_between(0, 1, rng, n, STROKES, 1, 1) + _between(0.4, 1.15, rng, n, STROKES, 1, 1) * along)
    arc = 0.6 * a + radii * torch.cat([angle.cos(), angle.sin()], dim=3)
    each = n, STROKES, 1, 1
    return torch.where(_coin(0.3, rng, *each), arc, torch.where(_coin(0.45, rng, *each), line, cubic))


def _joined(curves: Tensor, rng: Generator) -> Tensor:
    """Half of the strokes begin where the one before ends; those beyond an image's number are its first again."""
    n = len(curves)
    joins = _coin(0.5, rng, n, STROKES, 1, 1)
    strokes = [curves[:, 0]]
    for i in range(1, STROKES):
        gap = strokes[-1][:, -1:] - curves[:, i, :1]
        strokes.append(curves[:, i] + joins[:, i] * gap)
    number = torch.randint(1, STROKES + 1, (n, 1, 1), generator=rng)
    return torch.stack([torch.where(i < number, stroke, strokes[0]) for i, stroke in enumerate(strokes)], dim=1)


def _fitted(points: Tensor, rng: Generator) -> Tensor:
    """The points (n, P, 2) moved and scaled so that they fill the place of a digit, more or less."""
    n = len(points)
    low, high = points.aminmax(dim=1, keepdim=True)
    side = (high - low).amax(dim=2, keepdim=True).clamp_min(0.3)
    narrow = torch.cat([_between(0.7, 1, rng, n, 1, 1), torch.ones(n, 1, 1, dtype=torch.float64)], dim=2)
    size = 2 * LONGER * _between(0.85, 1.15, rng, n, 1, 1)
    return (points - (low + high) / 2) * size / side * narrow + _between(-0.14, 0.14, rng, n, 1, 2)


# Textures ---------------------------------------------------------------------------------------------------


def texture(height: int, width: int, rng: Generator) -> Array:
    """One image (height, width), uint8, of one of the kinds of `textures`, with detail down to its pixels."""
    size = height, width
    kinds: list[Callable[[], Tensor]] = [
        lambda: _any_noise(size, rng),
        lambda: _split(_any_noise(size, rng), rng),
        lambda: _waves(1, rng, size),
        lambda: _shapes(1, rng, size),
    ]
    plane = kinds[int(torch.randint(len(kinds), (), generator=rng))]()[0, 0]
    return (255 * plane + TIE).round().to(torch.uint8).numpy()


def _any_noise(size: tuple[int, int], rng: Generator) -> Tensor:
    """Gray noise (1, 1, H, W) from one of the blurs."""
    finest = max(size)
    blurs = [*(k for k in BLURS if k < finest), *_doubles(finest)]
    blur = blurs[int(torch.randint(len(blurs), (), generator=rng))]
    return _gray(_blurred(1, rng, blur, size))


def _doubles(finest: int) -> list[int]:
    """28, 56, ... below `finest`, and that."""
    steps = max(0, math.ceil(math.log2(finest / BLURS[-1])) - 1)
    return [*(BLURS[-1] * 2 ** (i + 1) for i in range(steps)), finest]


def _textures(n: int, rng: Generator) -> Tensor:
    """Images (n, 1, SIZE, SIZE) in [0, 1], of each kind as many in expectation."""
    size = SIZE, SIZE
    kinds = [_noise(n, rng), _split(_noise(n, rng), rng), _waves(n, rng, size), _shapes(n, rng, size)]
    kind = torch.randint(len(kinds), (n, 1, 1, 1), generator=rng)
    return torch.stack(kinds).take_along_dim(kind[None], dim=0)[0]


def _noise(n: int, rng: Generator) -> Tensor:
    """Gray noise, from four blurs to a side up to one value a pixel."""
    scales = [_blurred(n, rng, blur, (SIZE, SIZE)) for blur in (*BLURS, SIZE)]
    scale = torch.randint(len(scales), (n, 1, 1, 1), generator=rng)
    return _gray(torch.stack(scales).take_along_dim(scale[None], dim=0)[0])


def _blurred(n: int, rng: Generator, blur: int, size: tuple[int, int]) -> Tensor:
    """Normal numbers, `blur` to a side, in between by cubic curves: (n, 1, H, W)."""
    return interpolate(_normal(rng, n, 1, blur, blur), size=size, mode="bicubic")


def _gray(noise: Tensor) -> Tensor:
    return (0.5 + 0.35 * noise).clamp(0, 1)


def _split(noise: Tensor, rng: Generator) -> Tensor:
    """Noise split at a level into black and white."""
    return (noise > _between(0.3, 0.8, rng, len(noise), 1, 1, 1)).double()


def _waves(n: int, rng: Generator, size: tuple[int, int]) -> Tensor:
    """A plane wave of up to four and a half periods either way, of as many more as an image has more pixels."""
    down, right = (_axis(side) for side in size)
    x, y = _between(-14, 14, rng, 2, n, 1, 1, 1) * (max(size) / SIZE)
    return 0.5 + 0.5 * torch.sin(x * right + y * down[:, None] + tau * _between(0, 1, rng, n, 1, 1, 1))


def _shapes(n: int, rng: Generator, size: tuple[int, int]) -> Tensor:
    """One to three boxes and ellipses, turned, full or hollow, each of its own gray."""
    each = n, 3, 1, 1
    x, y = _between(-0.6, 0.6, rng, 2, *each)
    wide, high = _between(0.1, 0.7, rng, 2, *each)
    turn = tau * _between(0, 1, rng, *each)
    right, down = _axis(size[1]) - x, _axis(size[0])[:, None] - y
    u = (right * turn.cos() + down * turn.sin()) / wide
    v = (down * turn.cos() - right * turn.sin()) / high
    away = torch.where(_coin(0.5, rng, *each), torch.maximum(u.abs(), v.abs()), torch.hypot(u, v))
    inside = torch.where(_coin(0.5, rng, *each), (away - 1).abs() < 0.25, away < 1)
    there = torch.arange(3)[:, None, None] < torch.randint(1, 4, (n, 1, 1, 1), generator=rng)
    return (inside & there).mul(_between(0.3, 1, rng, *each)).amax(dim=1, keepdim=True)


def _between(low: float, high: float, rng: Generator, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng).double()


def _normal(rng: Generator, *shape: int) -> Tensor:
    """What `torch.randn` draws, but for the last bits: Box and Muller's numbers, by sixteens, from `torch.rand`."""
    size = math.prod(shape)
    if size < 16:
        return torch.randn(shape, generator=rng).double()
    uniform = torch.rand(size, generator=rng).double()
    whole = _box_muller(uniform[: size // 16 * 16])
    if size % 16:
        last = _box_muller(torch.rand(16, generator=rng).double())
        whole = torch.cat([whole[: size - 16], last])
    return whole.view(shape)


def _box_muller(uniform: Tensor) -> Tensor:
    """Numbers in [0, 1), (16 m,) -> normal ones: of each sixteen, eight give the radius and eight the angle."""
    first, second = uniform.view(-1, 2, 8).unbind(1)
    radius, angle = (-2 * (1 - first).log()).sqrt(), tau * second
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten()


def _coin(p: float, rng: Generator, *shape: int) -> Tensor:
    """True with probability p."""
    return torch.rand(shape, generator=rng) < p
