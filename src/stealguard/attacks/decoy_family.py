"""The decoys that an attacker expects: softmax regression on an input's pixels, fitted to answers with trimming.

Decoys are a linear classifier of the input, and the attacker knows that, but not its weights. From soft answers they
can be found all but exactly: 20,000 answers are 180,000 equations for LeNet-5's 7,850 unknowns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.seeds import seeded

_SIDE = 32  # larger images are averaged to this many pixels a side, as decoys do it
_LENGTH = 10.0  # of an input's vector of features, as decoys do it
_SAMPLE = 5_000  # inputs that the principal components are computed from
_RIDGE = 1e-6  # weight of the squared map: keeps it finite where labels can be separated
_TINY = 1e-4  # a class with less than this of an answer may have been left out of it


def features(x: Tensor) -> Tensor:
    """Inputs (N, *shape) as vectors (N, D) of mean 0 and one length, large images at a coarser scale."""
    if x.dim() == 4 and max(x.shape[2:]) > _SIDE:
        x = F.adaptive_avg_pool2d(x, _SIDE)
    flat = x.flatten(1)
    return _LENGTH * F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


class DecoyFamily(nn.Module):
    """A linear classifier: inputs (N, *shape) -> logits (N, K).

    Args:
        x: inputs (N, *shape), of which the number of features and their principal components are taken.
        classes: K.
        components: the number of principal components that the map reads; 0 for all features.
        seed: what the computation of the components follows from.
    """

    basis: Tensor

    def __init__(self, x: Tensor, classes: int, components: int = 0, seed: int = 0):
        super().__init__()
        sample = features(x[:_SAMPLE])
        self.register_buffer("basis", _principal(sample, components, seed) if components else torch.empty(0))
        self.linear = nn.Linear(self.basis.shape[1] if components else sample.shape[1], classes).to(x.device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def read(self, x: Tensor) -> Tensor:
        """What the linear map reads of inputs (N, *shape): their features or the components of these, (N, D)."""
        return features(x) @ self.basis if self.basis.numel() else features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.read(x))


def _principal(points: Tensor, components: int, seed: int) -> Tensor:
    """The first principal components of points (N, D), as columns (D, at most `components`)."""
    with seeded(seed):
        return torch.pca_lowrank(points, q=min(components, *points.shape))[2]


def without_floor(answers: Tensor, doubt: float) -> Tensor:
    """Answers (N, K) without the share `doubt`, in [0, 1), that a decoy gives to all classes alike."""
    rest = (answers - doubt / answers.shape[1]).clamp_min(0) * (answers > 0).any(dim=1, keepdim=True)
    return F.normalize(rest, p=1, dim=1)


def divergence(answers: Tensor, logits: Tensor, left_out: Tensor | None = None) -> Tensor:
    """KL(answer || softmax(logits)) of each row, (N, K) -> (N,), over the classes that are not left out.

    Args:
        left_out: a class of each row, (N,), that is removed from both before they are normalized; -1 for none.
    """
    if left_out is not None:
        removed = torch.arange(answers.shape[1], device=answers.device) == left_out[:, None]
        answers = F.normalize(answers.masked_fill(removed, 0), p=1, dim=1)
        logits = logits.masked_fill(removed, -torch.inf)
    logs = logits.log_softmax(dim=1)
    return (torch.special.xlogy(answers, answers) - torch.where(answers > 0, answers * logs, 0)).sum(dim=1)


def without_each(answers: Tensor, logits: Tensor) -> Tensor:
    """The divergence of each row when each class in turn is left out, (N, K)."""
    rows = torch.ones(len(answers), dtype=torch.long, device=answers.device)
    return torch.stack([divergence(answers, logits, k * rows) for k in range(answers.shape[1])], dim=1)


def missing(answers: Tensor) -> Tensor:
    """The class that is all but absent from each answer, (N, K) -> (N,); -1 if there is none.

    A label leaves out all classes but one, and of two classes the other one is all that is left: neither counts.
    """
    least = answers.argmin(dim=1)
    absent = (answers.amin(dim=1) < _TINY) & ((answers > 0).sum(dim=1) > 1) & (answers.shape[1] > 2)
    return least.where(absent, -torch.ones_like(least))


def fitted(
    x: Tensor, answers: Tensor, *, trim: float, masked: bool = False, components: int = 0, rounds: int = 2,
    steps: int = 100, seed: int = 0,
) -> DecoyFamily:  # fmt: skip
    """The family's member that answers look most like, with the worst answers dropped between rounds of fitting.

    A class that is missing from an answer is left out of the comparison: decoys may leave out the net's own class.

    Args:
        x: inputs (N, *shape).
        answers: rows on the simplex (N, K), without a floor; rows of zeros are ignored.
        trim: the share of answers that each later round drops, in [0, 1).
        masked: whether every decoy leaves out a class, even if a little of it is left. It is taken to be the least
            probable one at first, and after each fit the one without which the rest agrees best.
        components: see `DecoyFamily`.
        rounds: fits, at least 1.
        steps: the greatest number of L-BFGS steps of a fit.
    """
    family = DecoyFamily(x, answers.shape[1], components, seed)
    read, left_out = family.read(x), answers.argmin(dim=1) if masked else missing(answers)
    present = answers.sum(dim=1) > 0
    kept = present
    for _ in range(rounds):
        _minimize(family.linear, read[kept], answers[kept], left_out[kept], steps)
        with torch.no_grad():
            if masked:
                left_out = without_each(answers, family.linear(read)).argmin(dim=1)
            found = divergence(answers, family.linear(read), left_out)
        kept = present & (found <= found[present].quantile(1 - trim))
    return family.requires_grad_(False)


def _minimize(linear: nn.Linear, read: Tensor, answers: Tensor, left_out: Tensor, steps: int) -> None:
    """Descend the mean divergence by L-BFGS."""
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = divergence(answers, linear(read), left_out).mean() + _RIDGE * linear.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
