"""Black-Box Dissector (Wang et al., ECCV 2022): erase the patch an image is recognized by, and ask the rest."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.erasing import class_activation, draw_pixels, erase, patches
from stealguard.attacks.selection import INPUTS
from stealguard.attacks.transfer import Transfer, lengthened
from stealguard.boxes.base import CHUNK
from stealguard.devices import device_of
from stealguard.errors import NotApplicable, require
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class BlackboxDissector(PoolAttack):
    """Ask images again without the patch that their label came from; soften overstated labels with the clone's own.

    In rounds, each with as many queries as bring the total to the next of `totals`; the first are random images of the
    pool.

    1. The clone is trained on all answers. It then labels as many images that were not asked itself, each by the mean
       of its probabilities over N copies with a random patch erased, y' = 1/N sum_i q(psi_i(x)), and is trained again,
       from its first weights, by cross-entropy on the answers and these labels together.
    2. Of every image asked whole and not yet erased, N copies lose a patch around a pixel drawn in proportion to the
       clone's Grad-CAM map of the answered class y. The copy that the clone finds least like y stands for the image,
       Pi(x) = argmin_i q(psi_i(x))_y. The copies with the greatest confidence max_j q(Pi(x))_j are asked; each is a
       query. The rest of the round's queries are random images.

    It is made for labels alone; from soft answers the clone learns as they come, and y is the most probable class.

    The authors' program always places the patch on the map's highest pixel: `about="highest"`. Its map is of the class
    that the clone itself gives and of a layer chosen by hand; here it is of the answered class and the last feature
    map. The program chooses the best epoch by the test set; here it is the last. Its patches are filled with the
    images' mean color; reimplementations of the paper's own algorithm have random colors there: `fill="noise"`.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs, images (C, H, W) all.
        totals: the numbers of queries at which a round ends, rising; those below the budget count, and the last round
            uses what is left.
        erased: the share of a round's queries that are erased images, in [0, 1]; more if the pool has no others.
        distilled: the number of images that the clone labels itself for each answer; 0 for no second training.
        copies: N, at least 1.
        area: a patch's least and greatest share of its image, in (0, 1]; the program's.
        aspect: the least height / width of a patch, and its greatest width / height; in (0, 1].
        about: erase around a pixel `drawn` by the map, or its `highest`.
        fill: the pool's `mean` color in a patch, or `noise`.
        least: the least number of optimizer steps in a training: a hundred images need more epochs than thousands.
        training: how the clone trains, each time.
    """

    totals: tuple[int, ...] = (100, 200, 500, 800, 1_000, 2_000, 5_000, 10_000, 20_000)
    erased: float = 0.25
    distilled: float = 1.0
    copies: int = 10
    area: tuple[float, float] = (0.02, 0.1)
    aspect: float = 0.3
    about: Literal["drawn", "highest"] = "drawn"
    fill: Literal["mean", "noise"] = "mean"
    least: int = 200
    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("distilled", 0), ("copies", 1), ("least", 0)):
            require(getattr(self, name) >= low, name, f"at least {low}", getattr(self, name))
        rising = all(a < b for a, b in pairwise((0, *self.totals)))
        require(rising, "totals", "rising numbers of at least 1", self.totals)
        require(0 <= self.erased <= 1, "erased", "in [0, 1]", self.erased)
        require(0 < self.area[0] <= self.area[1] <= 1, "area", "two rising shares in (0, 1]", self.area)
        require(0 < self.aspect <= 1, "aspect", "in (0, 1]", self.aspect)
        require(self.about in ("drawn", "highest"), "about", "`drawn` or `highest`", f"`{self.about}`")
        require(self.fill in ("mean", "noise"), "fill", "`mean` or `noise`", f"`{self.fill}`")

    @classmethod
    def paper(cls) -> BlackboxDissector:
        """30,000 queries and 200 epochs, as for CIFAR-10; the rate falls after thirds where theirs falls after 60."""
        return cls(budget=30_000, training=Training(epochs=200, lr=0.02, schedule="step"))

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        if len(pool.shape) != 4:
            raise NotApplicable("This attack erases patches of images, and these inputs are not images.")
        size = min(self.budget, box.left)
        generator = torch.Generator().manual_seed(derive(seed, "queries"))
        unasked = torch.randperm(len(pool), generator=generator)
        first, color = copy.deepcopy(clone.state_dict()), _mean_color(pool)
        transfer, whole = Transfer(size), torch.arange(0)
        for number, queries in enumerate(self._parts(size)):
            k = min(len(whole), max(int(self.erased * queries), queries - len(unasked)))
            if k:
                with seeded(derive(seed, "erased", number)):
                    rows, x = self._dissect(clone, transfer, whole, k, color)
                transfer.ask(box, x)
                whole = whole[torch.ones(len(whole), dtype=torch.bool).index_fill(0, rows, False)]
            start = len(transfer)
            transfer.ask(box, pool, unasked[: queries - k])
            whole, unasked = torch.cat([whole, torch.arange(start, len(transfer))]), unasked[queries - k :]
            wanted = int(self.distilled * len(transfer))
            others = unasked[torch.randperm(len(unasked), generator=generator)[:wanted]]
            self._learn(clone, first, transfer, pool[others], color, derive(seed, "clone", number))
        return clone

    def _parts(self, size: int) -> list[int]:
        """Queries of each round."""
        ends = [*(total for total in self.totals if total < size), size]
        return [b - a for a, b in pairwise((0, *ends))]

    def _learn(
        self, clone: nn.Module, first: dict[str, Tensor], transfer: Transfer, others: Tensor, color: Tensor, seed: int
    ) -> None:
        """Train on the answers, from the first weights, and again with others that the clone has labeled itself."""
        self._fit(clone, first, transfer.x, transfer.answers, derive(seed, "answers"))
        if len(others):
            with seeded(derive(seed, "labels")):
                labels = self._labels(clone, others, color).to(transfer.answers)
            x, y = torch.cat([transfer.x, others]), torch.cat([transfer.answers, labels])
            self._fit(clone, first, x, y, derive(seed, "answers and labels"))

    def _fit(self, clone: nn.Module, first: dict[str, Tensor], x: Tensor, y: Tensor, seed: int) -> None:
        clone.load_state_dict(first)
        fit(clone, x, y, lengthened(self.training, len(x), self.least), seed=seed, progress=False)

    @torch.no_grad()
    def _labels(self, clone: nn.Module, x: Tensor, color: Tensor) -> Tensor:
        """The clone's mean probabilities over copies of x, (N, C, H, W), each without a random patch: (N, K)."""
        device = device_of(clone)
        found = []
        for part in x.split(INPUTS):
            even = torch.ones(len(part) * self.copies, *part.shape[2:], device=device)
            erased = self._patched(part.to(device), draw_pixels(even), color.to(device))
            found.append(clone(erased).softmax(dim=1).unflatten(0, (len(part), self.copies)).mean(dim=1).to(x.device))
        return torch.cat(found)

    def _dissect(
        self, clone: nn.Module, transfer: Transfer, whole: Tensor, k: int, color: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The k images to ask again, as rows of `whole`, (k,), and their erased copies, (k, C, H, W).

        Args:
            whole: the rows in the transfer set of those that were not erased yet.
        """
        erased, confidence = [], []
        for rows in whole.split(INPUTS):
            images, greatest = self._hide(clone, transfer.x[rows], transfer.answers[rows].argmax(dim=1), color)
            erased.append(images)
            confidence.append(greatest)
        picked = torch.cat(confidence).topk(k).indices.cpu()
        return picked, torch.cat(erased)[picked]

    def _hide(self, clone: nn.Module, x: Tensor, labels: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
        """Of each image, (B, C, H, W), the erased copy that the clone finds least like its label, and its confidence.

        Returns:
            The copies, (B, C, H, W), and the clone's greatest probability for each, (B,).
        """
        device = device_of(clone)
        b, origin = torch.arange(len(x), device=device), x.device
        x, labels = x.to(device), labels.to(device)
        seen = class_activation(clone, x, labels).repeat_interleave(self.copies, dim=0)
        pixels = draw_pixels(seen) if self.about == "drawn" else seen.flatten(1).argmax(dim=1)
        erased = self._patched(x, pixels, color.to(device))
        with torch.no_grad():
            answers = clone(erased).softmax(dim=1).unflatten(0, (len(x), self.copies))
        least = answers[b, :, labels].argmin(dim=1)
        copies = erased.unflatten(0, (len(x), self.copies))
        return copies[b, least].to(origin), answers[b, least].amax(dim=1).to(origin)

    def _patched(self, x: Tensor, pixels: Tensor, color: Tensor) -> Tensor:
        """`copies` of each image of x, (B, C, H, W), one after the other, without a patch around the given pixels."""
        many = x.repeat_interleave(self.copies, dim=0)
        masks = patches(pixels, (x.shape[2], x.shape[3]), self.area, self.aspect)
        return erase(many, masks, color if self.fill == "mean" else torch.rand_like(many))


def _mean_color(pool: QueryPool) -> Tensor:
    """The mean of each channel over a pool (N, C, H, W), (C, 1, 1)."""
    parts = torch.arange(len(pool)).split(CHUNK)
    sums = torch.stack([pool[part].double().mean(dim=(2, 3)).sum(dim=0) for part in parts])
    return (sums.sum(dim=0) / len(pool)).float().view(-1, 1, 1)
