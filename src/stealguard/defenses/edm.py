"""Ensemble of Diverse Models (Kariyappa, Prakash & Qureshi, ICLR 2021): one of several nets answers each input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defended, Defense
from stealguard.defenses.hashing import projection
from stealguard.errors import require, require_weight
from stealguard.nets import seed_from, sibling
from stealguard.seeds import derive
from stealguard.types import Batch


def coherence(probabilities: Sequence[Tensor]) -> Tensor:
    """Mean over inputs of log sum_{a<b} exp cos(p_a, p_b), from each member's rows (N, K): a smooth maximum."""
    pairs = [F.cosine_similarity(p, q, dim=1) for p, q in combinations(probabilities, 2)]
    return torch.stack(pairs).logsumexp(dim=0).mean()


class Routed(Defended):
    """Several nets, and a secret hash that says which one answers an input; forward is that one's logits, (N, K).

    The hash is coarse: a step function of the input's length along a random direction. An attacker who changes an
    input a little to see what the other members say still gets the same one, as the paper wants; yet neighboring
    steps go to different members. An input goes to the same member in whatever batch.

    Args:
        net: the first member; the hash's key follows from its weights.
        others: the other members.
        settings: the defense.
    """

    key: Tensor

    steady = True

    def __init__(self, net: nn.Module, others: Iterable[nn.Module], settings: EDM):
        super().__init__(net)
        self.others, self.settings = nn.ModuleList(others), settings
        self.register_buffer("key", torch.tensor(derive(seed_from(net), "hash")))

    @property
    def members(self) -> list[nn.Module]:
        return [self.net, *self.others]

    def route(self, x: Tensor) -> Tensor:
        """The number, (N,), of the member that answers each of x, (N, *shape) in [0, 1]."""
        along, unit = projection(x, int(self.key))
        return (along / (self.settings.width * unit)).floor().long() % len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        routed = self.route(x)
        order = routed.argsort()
        parts = order.split(routed.bincount(minlength=len(self.members)).tolist())
        answered = [member(x[rows]) for member, rows in zip(self.members, parts, strict=True) if len(rows)]
        return torch.cat(answered)[order.argsort()]

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        terms = {"task": torch.stack([F.cross_entropy(member(batch.x), batch.y) for member in self.members]).sum()}
        if self.settings.diversity:
            on_outliers = [member(batch.z).softmax(dim=1) for member in self.members]
            terms["diversity"] = self.settings.diversity * coherence(on_outliers)
        return terms


@dataclass(frozen=True)
class EDM(Defense):
    """L = sum_i CE(f_i(x), y) + lambda log sum_{a<b} exp cos(f_a(z), f_b(z)): alike on the task, unlike on outliers.

    The members train together; the sum lets each learn the task as fast as it would alone. A query is answered by the
    member that its secret hash names, so an answer costs one forward pass, whatever the number of members.

    No public program trains one. The paper asks for a hash that an attacker cannot know and that is coarse, so that
    small changes of an input do not reach another member. Its own hash could not be reconstructed from the text; the
    one used here has both properties.

    Args:
        diversity: lambda, the strength, at least 0.
        members: how many nets, at least 2; the paper has 5.
        width: of a step of the hash, above 0, as a distance between inputs in [0, 1]. For random changes of an input to
            cross a step they must be about sqrt(D) times as long, D the number of its values.
    """

    # Training on the members' mixed answers was as good as on one net's where it was measured (`docs/rivals.md`). Votes
    # over changed copies, which reach other members, were worse.
    countered_by = ("knockoff",)

    diversity: float = 1.0
    members: int = 5
    width: float = 0.05

    def __post_init__(self) -> None:
        require_weight(self.diversity, "diversity")
        require(self.members >= 2, "members", "at least 2", self.members)
        require(self.width > 0 and math.isfinite(self.width), "width", "a positive number", self.width)

    @property
    def needs_outliers(self) -> bool:
        return self.diversity > 0

    @property
    def cost(self) -> Cost:
        return Cost(trained=f"{self.members} nets in the place of one")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Routed(net, [sibling(net, number) for number in range(1, self.members)], self)
