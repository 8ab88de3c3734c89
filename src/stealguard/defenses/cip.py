"""Categorical Inference Poisoning (Zhang, Hua, Wang, Jiang & Yang, IEEE TIFS 2023): false answers to unusual inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Defended, Defense, Plain, evaluating
from stealguard.defenses.hashing import projection, uniforms
from stealguard.errors import require, require_weight
from stealguard.nets import seed_from
from stealguard.seeds import derive
from stealguard.simplex import reverse_sigmoid
from stealguard.types import Batch

EVERY = 4  # training steps from one observation of the energies of task inputs to the next
KEPT = 2048  # of the latest energies
NOISE = 0.1  # power of the strong poison's noise, as a share of the answer's: 10 dB


def energy(logits: Tensor) -> Tensor:
    """-log sum exp of each row, (N,): low on inputs like those that were learned (Liu et al., NeurIPS 2020)."""
    return -logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(dim=1)  # half precision is too coarse


def strong_poison(y: Tensor, u: Tensor) -> Tensor:
    """Rows (N, K) with their entries in a random order in which another class is first, and noise added.

    Args:
        y: rows on the simplex, (N, K).
        u: numbers in [0, 1), (N, 2 K), that order and noise follow from.
    """
    k, top = y.shape[1], y.argmax(dim=1, keepdim=True)
    order = u[:, :k].argsort(dim=1)
    neighbor = (top + 1) % k
    stays = order.gather(1, top) == top
    swapped = order.scatter(1, top, order.gather(1, neighbor)).scatter(1, neighbor, order.gather(1, top))
    noise = math.sqrt(2 * NOISE) * torch.erfinv(u[:, k:]) * y.double().square().mean(dim=1, keepdim=True).sqrt()
    return F.normalize(y.gather(1, torch.where(stays, swapped, order)) + noise.to(y), p=1, dim=1)


class Energies(nn.Module):
    """The latest energies of task inputs, (KEPT,), NaN where none is known yet; and the key of what poisons draw."""

    key: Tensor
    latest: Tensor
    steps: Tensor

    def __init__(self, key: int):
        super().__init__()
        self.register_buffer("key", torch.tensor(key))
        self.register_buffer("latest", torch.full((KEPT,), torch.nan))
        self.register_buffer("steps", torch.tensor(0))  # of training so far

    @torch.no_grad()
    def observe(self, net: nn.Module, x: Tensor) -> None:
        """Called before each training step of `net`, with its task inputs."""
        if int(self.steps) % EVERY == 0:
            with evaluating(net), torch.autocast(x.device.type, enabled=False):  # as the net is when it answers
                self.latest.copy_(torch.cat([energy(net(x)).to(self.latest), self.latest])[:KEPT])
        self.steps += 1


class Poisoned(Plain):
    """Poisons the answers to inputs whose energy is above the quantiles of task inputs' energies."""

    def __init__(self, energies: Energies, quantiles: tuple[float, ...]):
        self._energies, self._quantiles = energies, quantiles

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y, e = super().answer(outputs, x), energy(outputs["logits"])[:, None]
        weak, strong = (self._energies.latest.nanquantile(q).to(e) for q in self._quantiles)
        u = uniforms(projection(x, int(self._energies.key))[0], 2 * y.shape[1]).to(y.device)
        return torch.where(e > strong, strong_poison(y, u), torch.where(e > weak, reverse_sigmoid(y, 0.9, 0.6), y))


class Scored(Defended):
    """The user's net and the `energies` of task inputs under it; forward is the net's logits."""

    def __init__(self, net: nn.Module, settings: CIP):
        energies = Energies(derive(seed_from(net), "poison"))
        super().__init__(net, Poisoned(energies, settings.quantiles))
        self.energies, self.settings = energies, settings

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        self.energies.observe(self.net, batch.x)
        v = self.net(batch.x)
        terms = {"task": F.cross_entropy(v, batch.y)}
        if self.settings.weight:
            on_task = F.relu(energy(v) - self.settings.m_in).square().mean()
            on_outliers = F.relu(self.settings.m_out - energy(self.net(batch.z))).square().mean()
            terms["energy"] = self.settings.weight * (on_task + on_outliers)
        return terms


@dataclass(frozen=True)
class CIP(Defense):
    """Answers inputs of high energy falsely, and those of very high energy at random.

    L = CE(f(x), y) + w (mean relu(E(x) - m_in)^2 + mean relu(m_out - E(z))^2), E the energy, z outliers. An input whose
    energy is above that of 95 % of task inputs is answered by a reverse sigmoid of the answer (the weak poison); above
    that of 99.9 %, by its entries in a random order and noise (the strong one).

    The energies of task inputs are those of the last training steps, in evaluation mode. What is drawn follows from
    the input, so that asking again tells nothing new; the published program draws anew. It trains in two stages, with
    the terms on energies in the second; here there is one stage. Its second poison, wrong answers to the task inputs
    of which the net is least sure, is a watermark by which a stolen model is recognized, and is left out.

    Args:
        weight: w, at least 0.
        m_in, m_out: the energies that task inputs should be below and outliers above.
        quantiles: the strength: the quantiles of task inputs' energies, rising, above which an answer is poisoned
            weakly and strongly.
    """

    # The weak poison keeps the top class. The strong one is drawn anew for a changed copy, but votes over such copies
    # lost more than they undid where they were measured (`docs/rivals.md`).
    countered_by = ("labels",)

    answering = ("quantiles",)

    weight: float = 0.01
    m_in: float = -10.0
    m_out: float = -4.0
    quantiles: tuple[float, ...] = (0.95, 0.999)

    @classmethod
    def authors(cls) -> CIP:
        """For a net that is already trained, and a rate of 0.001; from scratch, these diverge at any usual rate."""
        return cls(weight=0.1, m_in=-25.0, m_out=-7.0)

    def __post_init__(self) -> None:
        require_weight(self.weight, "weight")
        require(self.m_in <= self.m_out, "m_in", "at most `m_out`", self.m_in)
        ok = len(self.quantiles) == 2 and 0 <= self.quantiles[0] <= self.quantiles[1] <= 1
        require(ok, "quantiles", "two rising numbers in [0, 1]", self.quantiles)

    @property
    def needs_outliers(self) -> bool:
        return self.weight > 0

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Scored(net, self)
