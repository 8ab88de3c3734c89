"""KnockoffNets' adaptive policy (Orekondy, Schiele & Fritz, CVPR 2019, section 4.1.2): a bandit chooses queries."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.selection import k_means
from stealguard.attacks.transfer import Transfer
from stealguard.boxes.base import Boxed
from stealguard.errors import NoAnswers, pick, require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


def certainty(answers: Tensor, usual: Tensor, predicted: Tensor) -> Tensor:
    """The margin of the most probable class over the second, (N,)."""
    best = answers.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def diversity(answers: Tensor, usual: Tensor, predicted: Tensor) -> Tensor:
    """Sum over classes of max(0, y - mean of the last answers), (N,)."""
    return (answers - usual).clamp_min(0).sum(dim=1)


def loss(answers: Tensor, usual: Tensor, predicted: Tensor) -> Tensor:
    """The clone's cross-entropy before it has learned from the answers, (N,)."""
    return -(answers * predicted.clamp_min(1e-12).log()).sum(dim=1)


REWARDS = {"certainty": certainty, "diversity": diversity, "loss": loss}


class Bandit:
    """A gradient bandit: a softmax policy over preferences H, moved by each action's reward beyond the usual one.

    H += (r - mean of the last rewards) (1[action] - policy) / N, N the number of times that the action was taken.

    Args:
        actions: how many.
        window: the number of the last rewards, this one included, whose mean is the baseline.
    """

    def __init__(self, actions: int, window: int):
        self._preferences = torch.zeros(actions, dtype=torch.double)
        self._taken = [0] * actions
        self._last: deque[float] = deque(maxlen=window)

    def policy(self, possible: Tensor) -> Tensor:
        """The actions' probabilities, (A,); 0 for those that are not `possible`, (A,)."""
        return self._preferences.masked_fill(~possible, -torch.inf).softmax(dim=0)

    def learn(self, action: int, reward: float, policy: Tensor) -> None:
        """Update the preferences with the reward of an action drawn from `policy`."""
        self._last.append(reward)
        self._taken[action] += 1
        gain = (reward - sum(self._last) / len(self._last)) / self._taken[action]
        self._preferences -= gain * policy
        self._preferences[action] += gain


@dataclass(frozen=True)
class AdaptiveKnockoff(PoolAttack):
    """Queries from groups of the pool, as often as their rewards suggest; the clone trains along and again at the end.

    The paper's groups are the classes of the pool, which an attacker with labels for it knows. Here the pool has no
    labels, and the groups are clusters: k-means on pixels. The paper acts on one input at a time, this attack on
    `batch` inputs drawn from one policy. With several rewards, each is scaled to [0, 1] by the least and the greatest
    so far, and they are added; ART's program standardizes them instead. No input is asked twice; a group that has been
    asked in full is left out. The clone trains from scratch on all answers at the end.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        groups: clusters of the pool.
        rewards: of `certainty`, `diversity`, `loss`.
        window: the number of the last answers and rewards whose mean is the baseline.
        batch: queries from one policy.
        online: how the clone trains on each batch of new answers.
        training: how it trains on all of them at the end.
    """

    groups: int = 10
    rewards: tuple[str, ...] = ("certainty", "diversity", "loss")
    window: int = 25
    batch: int = 32
    online: Training = field(default_factory=lambda: Training(epochs=1, batch=32, lr=0.01, schedule="constant"))
    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("groups", "window", "batch"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(bool(self.rewards), "rewards", f"at least one of {', '.join(REWARDS)}", "none")
        for name in self.rewards:
            pick(REWARDS, name, "rewards")

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        first = copy.deepcopy(clone.state_dict())
        transfer = self._ask(box, pool, clone, seed)
        clone.load_state_dict(first)
        fit(clone, transfer.x, transfer.answers, self.training, seed=derive(seed, "clone"), progress=False)
        return clone

    def _ask(self, box: Asked, pool: QueryPool, clone: nn.Module, seed: int) -> Transfer:
        """Spend the budget by the bandit; the clone trains along, so that its loss can be a reward."""
        generator = torch.Generator().manual_seed(derive(seed, "queries"))
        queues = self._queues(pool, seed, generator)
        bandit, scale = Bandit(len(queues), self.window), Scale(len(self.rewards))
        transfer, guess = Transfer(min(self.budget, len(pool))), Boxed(clone, tuple(pool.shape[1:]))
        while room := min(box.left, self.budget - len(transfer), sum(map(len, queues))):
            policy = bandit.policy(torch.tensor([bool(queue) for queue in queues]))
            actions = policy.multinomial(min(self.batch, room), replacement=True, generator=generator).tolist()
            drawn = [(action, queues[action].pop()) for action in actions if queues[action]]
            x = pool[torch.tensor([row for _, row in drawn])]
            usual = transfer.answers[-self.window :]
            answers = transfer.ask(box, x)
            if len(answers) < len(x):
                break
            usual = usual.mean(dim=0) if len(usual) else torch.zeros_like(answers[0])
            predicted = guess(x)
            rewards = scale(torch.stack([REWARDS[name](answers, usual, predicted) for name in self.rewards]))
            for (action, _), reward in zip(drawn, rewards.tolist(), strict=True):
                bandit.learn(action, reward, policy)
            new = slice(-max(2, len(x)), None)  # of one input alone, batch-norm cannot learn
            seed_now = derive(seed, "online", len(transfer))
            fit(clone, transfer.x[new], transfer.answers[new], self.online, seed=seed_now, progress=False)
        if not len(transfer):
            raise NoAnswers
        return transfer

    def _queues(self, pool: QueryPool, seed: int, generator: torch.Generator) -> list[list[int]]:
        """Each group's inputs in random order, by their rows in the pool."""
        k = min(self.groups, len(pool))
        groups = k_means(pool, k, seed=derive(seed, "groups")).cpu()
        order = torch.randperm(len(pool), generator=generator)
        return [order[groups[order] == group].tolist() for group in range(k)]


class Scale:
    """Several rewards (R, N) as one, (N,): each scaled to [0, 1] by its least and greatest so far, and added."""

    def __init__(self, rewards: int):
        self._low, self._high = torch.full((rewards, 1), torch.inf), torch.full((rewards, 1), -torch.inf)

    def __call__(self, rewards: Tensor) -> Tensor:
        rewards = rewards.cpu()
        self._low = torch.minimum(self._low, rewards.amin(dim=1, keepdim=True))
        self._high = torch.maximum(self._high, rewards.amax(dim=1, keepdim=True))
        return ((rewards - self._low) / (self._high - self._low).clamp_min(1e-12)).sum(dim=0)
