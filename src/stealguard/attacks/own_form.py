"""OwnForm: a clone with the defended model's own parts, a net, decoys and a gate, fitted to answers by likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.decoy_family import DecoyFamily, fitted, without_floor
from stealguard.attacks.transfer import Transfer, labels_only
from stealguard.boxes.base import logits
from stealguard.devices import device_of
from stealguard.errors import require
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked, Batch

_STEPS = 10  # in which a probe moves
_MARGIN = 1.0  # of the guessed class's logit over the next, where a probe stops


class OwnFormed(nn.Module):
    """The defended model as its code describes it; forward is the logarithm of what it answers, (N, K).

    P(y) = G p_y + (1 - G) ((1 - doubt) m_y + doubt / K), with p = softmax(u) the net's probabilities, s the decoys',
    and G = sigmoid(log sum_k exp u_k + offset). If decoys leave out the net's class, then m_y is the mean over that
    class, sum_{c != y} p_c s_y / (1 - s_c), through which the net learns from decoys; otherwise m = s.
    """

    def __init__(self, net: nn.Module, decoys: DecoyFamily, offset: float, masked: bool, doubt: float):
        super().__init__()
        self.net, self.decoys, self._masked, self._doubt = net, decoys, masked, doubt
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, x: Tensor) -> Tensor:
        u = self.net(x)
        p, s = u.softmax(dim=1), self.decoys(x).softmax(dim=1)
        if self._masked:
            odds = p / (1 - s).clamp_min(1e-6)
            s = s * (odds.sum(dim=1, keepdim=True) - odds)
        wrong = (1 - self._doubt) * s.clamp_min(1e-12) + self._doubt / s.shape[1]
        gate = u.logsumexp(dim=1, keepdim=True) + self.offset
        return torch.logaddexp(F.logsigmoid(gate) + u.log_softmax(dim=1), F.logsigmoid(-gate) + wrong.log())


@dataclass(frozen=True)
class OwnForm(PoolAttack):
    """Fit a net, decoys and a gate together, by the likelihood of all answers; the net is the clone.

    The attacker has read the code. If decoys leave out the net's class, each decoy's label is evidence of it: the
    decoys' most probable class is missing only if it is the net's. With `probes`, a part of the
    budget is spent on queries that test a guess: inputs are moved until the fitted decoys would prefer the class that
    the clone guesses; another answer confirms the guess. The decoys' map reads only the pool's first principal
    components, so that probes do not follow directions that no answer constrains.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        probes: the share of the budget that tests guesses, in [0, 1); 0 for none.
        rounds: of probes, at least 1; the model is fitted before each, and after the last.
        masked: whether the defense's decoys leave out the net's class. Probes need it.
        doubt: the share of a decoy that is uniform, in [0, 1), as the defense's code says; 0 if there is none.
        share: the share of answers that are the net's own at the beginning of the fit, in (0, 1).
        trim: the share of answers that is dropped when decoys are fitted, in [0, 1).
        components: principal components that the decoys' map reads; 0 for all pixels.
        reach: how far a probe moves at most, as a share of the length of its input's deviation from its mean.
        training: how all is fitted, each time.
    """

    probes: float = 0.5
    rounds: int = 4
    masked: bool = True
    doubt: float = 0.1
    share: float = 0.05
    trim: float = 0.15
    components: int = 100
    reach: float = 0.3
    training: Training = field(default_factory=lambda: Training(epochs=16))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("probes", "doubt", "trim"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        require(self.masked or not self.probes, "probes", "0 for decoys that leave out no class", self.probes)
        require(self.rounds >= 1, "rounds", "at least 1", self.rounds)
        require(0 < self.share < 1, "share", "in (0, 1)", self.share)
        require(self.components >= 0, "components", "at least 0", self.components)
        require(self.reach > 0, "reach", "a positive number", self.reach)

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        size = min(self.budget, box.left, len(pool))
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(derive(seed, "queries")))
        transfer = Transfer(size)
        transfer.ask(box, pool, order[: size - int(self.probes * size)])
        model = self._begun(clone, transfer, seed)
        self._fit(model, transfer, derive(seed, "clone", 0))
        for number in range(self.rounds if self.probes else 0):
            n = min((size - len(transfer)) // (self.rounds - number), box.left)
            if n:
                with seeded(derive(seed, "probes", number)):
                    rows = torch.randint(len(transfer), (n,))
                for part in rows.split(1024):
                    transfer.ask(box, self._probes(model, transfer.x[part]))
                self._fit(model, transfer, derive(seed, "clone", number + 1))
        return clone.eval()

    def _begun(self, clone: nn.Module, transfer: Transfer, seed: int) -> OwnFormed:
        """The parts before they are fitted together: decoys fitted alone, and a gate that is open for `share`."""
        x, answers = transfer.x, transfer.answers
        labels = labels_only(answers).all()
        rows = answers if labels else without_floor(answers, self.doubt)
        decoys = fitted(x, rows, trim=self.trim, components=self.components, seed=derive(seed, "decoys"))
        offset = math.log(self.share / (1 - self.share)) - logits(clone, x).logsumexp(dim=1).mean().item()
        model = OwnFormed(clone, decoys.requires_grad_(), offset, self.masked, 0.0 if labels else self.doubt)
        return model.to(device_of(clone))

    def _fit(self, model: OwnFormed, transfer: Transfer, seed: int) -> None:
        objective = _likelihood
        fit(model, transfer.x, transfer.answers, self.training, seed=seed, objective=objective, progress=False)

    def _probes(self, model: OwnFormed, x: Tensor) -> Tensor:
        """Inputs (n, *shape) moved until the decoys prefer the class that the net guesses, or `reach` is spent."""
        guess = logits(model.net, x).argmax(dim=1).to(device_of(model))[:, None]
        moved = x.to(guess.device)
        deviation = moved.flatten(1) - moved.flatten(1).mean(dim=1, keepdim=True)
        step = self.reach / _STEPS * deviation.norm(dim=1)
        for _ in range(_STEPS):
            with torch.enable_grad():
                here = moved.detach().requires_grad_()
                d = model.decoys(here)
                lead = (d.gather(1, guess) - d.scatter(1, guess, -torch.inf).amax(dim=1, keepdim=True)).squeeze(1)
                (slope,) = torch.autograd.grad(lead.sum(), here)
            length = (step * (lead < _MARGIN)).view(-1, *[1] * (x.dim() - 1))
            moved = (moved + length * F.normalize(slope.flatten(1), dim=1).view_as(x)).clamp(0, 1)
        return moved.detach().to(x.device)


def _likelihood(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The mean cross-entropy of answers under the model's own distribution; a row of zeros has no gradient."""
    return {"likelihood": -(batch.y * model(batch.x)).sum(dim=1).mean()}
