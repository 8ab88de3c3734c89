"""Categorical Inference Poisoning (Zhang, Hua, Wang, Jiang & Yang, IEEE TIFS 2023): the stranger, the falser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.boxes.base import logits
from stealguard.checks import check_inputs
from stealguard.defenses.base import Defense
from stealguard.defenses.hashing import projection, uniforms
from stealguard.errors import require, require_weight
from stealguard.nets import seed_from
from stealguard.seeds import derive
from stealguard.simplex import reverse_sigmoid
from stealguard.types import Batch, BlackBox, Objective

EVERY = 4  # steps of training from one look at the energies of task inputs to the next
KEPT = 2048  # of the latest energies
NOISE = 0.1  # power of the strong poison's noise, as a share of the answer's: 10 dB


class Scored(nn.Module):
    """A net, a key to draw by, and the latest energies of task inputs; forward is the net's logits."""

    key: Tensor
    energies: Tensor
    seen: Tensor

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("key", torch.tensor(derive(seed_from(net), "poison")))
        self.register_buffer("energies", torch.full((KEPT,), torch.nan))
        self.register_buffer("seen", torch.tensor(0))  # steps

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @torch.no_grad()
    def look(self, x: Tensor) -> None:
        """One more step of training is about to be made, on task inputs x."""
        if int(self.seen) % EVERY == 0:
            training = self.net.training
            self.net.eval()
            with torch.autocast(x.device.type, enabled=False):  # as it will be when it answers
                self.energies.copy_(torch.cat([energy(self.net(x)).to(self.energies), self.energies])[:KEPT])
            self.net.train(training)
        self.seen += 1


def energy(logits: Tensor) -> Tensor:
    """-log sum exp of each row, (N,): low where a net is at home (Liu et al., NeurIPS 2020)."""
    return -logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(dim=1)  # half precision is too coarse


def strong_poison(y: Tensor, u: Tensor) -> Tensor:
    """Rows (N, K) with their entries in a random order in which another class is first, and noise on top.

    Args:
        u: numbers in [0, 1), (N, 2 K), that order and noise follow from.
    """
    k, top = y.shape[1], y.argmax(dim=1, keepdim=True)
    order = u[:, :k].argsort(dim=1)
    neighbor = (top + 1) % k
    stays = order.gather(1, top) == top
    swapped = order.scatter(1, top, order.gather(1, neighbor)).scatter(1, neighbor, order.gather(1, top))
    noise = math.sqrt(2 * NOISE) * torch.erfinv(u[:, k:]) * y.double().square().mean(dim=1, keepdim=True).sqrt()
    return F.normalize(y.gather(1, torch.where(stays, swapped, order)) + noise.to(y), p=1, dim=1)


@dataclass(frozen=True)
class CIP(Defense):
    """Answers inputs of high energy falsely, and those of very high energy at random.

    L = CE(f(x), y) + w (mean relu(E(x) - m_in)^2 + mean relu(m_out - E(z))^2), E the energy, z outliers. An input whose
    energy is above that of 95 % of task inputs is answered by a reverse sigmoid of the answer (the weak poison); above
    that of 99.9 %, by its entries in a random order and noise (the strong one).

    The energies of task inputs are those of the last steps of training, in evaluation mode. What is drawn follows from
    the input, so that asking again tells nothing new; the program draws anew. It trains in two steps, the terms on
    energies in the second; here it is one. Its second poison, wrong answers to the task inputs of which the net is
    least sure, is a watermark by which a stolen model is recognized, and is left out.

    Args:
        weight: w, at least 0.
        m_in, m_out: the energies that task inputs should be below and outliers above.
        quantiles: the strength: of task inputs' energies, rising, above which an answer is poisoned weakly, strongly.
    """

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

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        return Scored(net)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Scored)
        return model.net

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Scored)
        model.look(batch.x)
        v = model(batch.x)
        terms = {"task": F.cross_entropy(v, batch.y)}
        if self.weight:
            assert batch.outliers is not None, "fit hands outliers to whoever needs them"
            at_home = F.relu(energy(v) - self.m_in).square().mean()
            abroad = F.relu(self.m_out - energy(model(batch.outliers))).square().mean()
            terms["energy"] = self.weight * (at_home + abroad)
        return terms

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        """Asks the net itself, since the box's answers do not tell the energy."""
        assert isinstance(model, Scored)
        latest = model.energies.cpu()
        weak, strong = (latest.nanquantile(q) for q in self.quantiles)

        def poisoned(x: Tensor, /) -> Tensor:
            check_inputs(x, "x")
            said = logits(model, x)
            y, e = said.softmax(dim=1), energy(said)[:, None]
            u = uniforms(projection(x, int(model.key))[0], 2 * y.shape[1]).to(y.device)
            return torch.where(e > strong, strong_poison(y, u), torch.where(e > weak, reverse_sigmoid(y, 0.9, 0.6), y))

        return poisoned
