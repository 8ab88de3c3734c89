"""DFMS-HL (Sanyal, Addepalli & Babu, CVPR 2022): a GAN of proxy images that covers the classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.attacks.base import QueryPool, check_budget
from stealguard.attacks.data_free.alternating import Alternating, Alternation, alternation, evenness, kl
from stealguard.attacks.data_free.generators import discriminator, shapes, squash
from stealguard.errors import require
from stealguard.seeds import derive
from stealguard.training.descent import Adam
from stealguard.types import Asked

_BETAS = (0.5, 0.999)  # DCGAN's


@dataclass(frozen=True)
class DFMSHL:
    """A generator kept close to some images by a discriminator, and even over the classes by the clone's predictions.

    First, without a query, a GAN learns the proxy images. Then in rounds: the box labels a batch of the generator's
    images and the clone learns them by cross-entropy; the generator takes a step down L_adv + lambda L_div, where
    L_adv = -log D(G(z)) and L_div = sum_k a_k log a_k, with a the clone's mean probabilities over the batch; the
    discriminator takes a step. No gradient of the box is needed, so it works on labels alone; from soft answers the
    clone learns as they come, by KL.

    The proxy images are the pool's, or, without data, random shapes as in the paper's synthetic setting. Left out of
    the paper's schedule: the clone's first trainings from scratch on proxy and GAN images, and augmentation. The
    paper replays nothing; `replay_steps=0` is its way.

    Args:
        budget: queries, at least 1.
        clone_steps, replay_steps: in a round; at least 1, 0.
        diversity: lambda, at least 0.
        proxy: whether the pool is the proxy images.
        synthetic: the number of images of random shapes that are the proxy images otherwise, at least 1.
        pretraining: steps of the GAN before the first query, for each round within the budget.
        replay: the number of latest images that are kept for replay, at least 1.
        training: how generator, discriminator and clone train.
    """

    budget: int = 200_000
    clone_steps: int = 1
    replay_steps: int = 3
    diversity: float = 500.0
    proxy: bool = False
    synthetic: int = 10_000
    pretraining: float = 0.25
    replay: int = 100_000
    training: Alternating = field(default_factory=lambda: Alternating(batch=128, generator_lr=3e-4))

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name, least in (("clone_steps", 1), ("replay_steps", 0), ("synthetic", 1), ("replay", 1)):
            require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        for name in ("diversity", "pretraining"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))

    @property
    def data_free(self) -> bool:
        return not self.proxy

    @property
    def needed(self) -> int:
        return 1

    @classmethod
    def paper(cls) -> DFMSHL:
        """8 million queries for CIFAR-10, a GAN's 200 epochs of 50,000 shapes before, no replay."""
        training = Alternating(batch=64, lr=0.01, generator_lr=2e-4, width=64)
        return cls(budget=8_000_000, replay_steps=0, synthetic=50_000, pretraining=1.25, training=training)

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        proxies = pool if self.proxy else shapes(min(self.synthetic, self.budget), pool[:1], seed=derive(seed, "proxy"))
        kept = self.replay if self.replay_steps else 0
        with alternation(box, self.budget, pool, [clone], self.training, seed=seed, replay=kept) as turns:
            critic = _Critic(proxies, self.training, turns.device)
            for _ in range(int(self.pretraining * turns.left / self.training.batch)):
                self._step(turns, critic, None)
            for n, _ in turns.rounds(self.clone_steps):
                turns.train_clones(n, self.clone_steps, kl)
                turns.replay(self.replay_steps, kl)
                self._step(turns, critic, clone)
        return clone

    def _step(self, turns: Alternation, critic: _Critic, clone: nn.Module | None) -> None:
        """A step of generator and discriminator; the loss has L_div once there is a clone."""
        x = squash(turns.unsquashed(self.training.batch))
        loss = critic.loss(x)
        if clone is not None:
            loss = loss - self.diversity * evenness(clone.eval()(x).softmax(dim=1))
        turns.train_generator(loss)
        critic.learn(x.detach())


class _Critic:
    """DCGAN's discriminator, learning to tell given images from generated ones.

    Args:
        given: images (M, *shape).
        training: its batch, and the generator's rate and width.
        device: where it learns.
    """

    def __init__(self, given: QueryPool, training: Alternating, device: torch.device):
        self._given, self._batch, self._rate, self._device = given, training.batch, training.generator_lr, device
        self._net = discriminator(tuple(given.shape[1:]), training.width).to(device)
        self._adam = Adam(self._net.parameters(), _BETAS)

    def loss(self, x: Tensor) -> Tensor:
        """Mean -log D(x), a number: the generator's adversarial loss."""
        return F.softplus(-self._net(x)).mean()

    def learn(self, generated: Tensor) -> None:
        """One step on -log D(given) - log(1 - D(generated))."""
        given = self._given[torch.randint(len(self._given), (self._batch,))].to(self._device)
        loss = self.loss(given) + F.softplus(self._net(generated)).mean()
        self._net.zero_grad()
        loss.backward()
        self._adam.step(self._rate)
