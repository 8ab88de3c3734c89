"""Black-Box Dissector (Wang et al., ECCV 2022): erase what an image is recognized by, and ask what is left of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.erasing import class_activation, draw_pixels, erase, patches
from stealguard.attacks.selection import INPUTS
from stealguard.attacks.transfer import Transfer
from stealguard.errors import NotApplicable, require
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class BlackboxDissector:
    """What a label hides is asked for again, without the patch it came from; what it overstates the clone softens.

    In rounds, as many queries as bring the total to the next of `totals`; the first are random images of the pool.

    1. The clone is trained on all answers. It then labels as many images that were not asked itself, each by the mean
       of its probabilities over N copies with a random patch erased, y' = 1/N sum_i q(psi_i(x)), and is trained again,
       from its first weights, by cross-entropy on the answers and these labels together.
    2. Of every image asked whole, and not yet erased, N copies lose a patch about a pixel drawn in proportion to the
       clone's Grad-CAM map of the answered class y. The copy Pi(x) that the clone finds least like y,
       argmin_i q(psi_i(x))_y, stands for it; and those are asked, of which the clone is surest what they are now,
       max_j q(Pi(x))_j. Each is a query. The rest of the round's queries are random images.

    It is made for labels alone; from soft answers the clone learns as they come, and y is the most probable class.

    The authors' program always lays the patch over the map's highest pixel: `about="highest"`. Its map is of the class
    that the clone itself gives and of a layer chosen by hand; here it is of the answered class and the last map of
    features. It picks the best epoch by the test set; here it is the last. Its patches are filled with the images'
    mean color; reports of the paper's own algorithm have random colors there: `fill="noise"`.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs, images (C, H, W) all.
        totals: after how many queries a round ends, rising; those below the budget count, and the last round fills it.
        erased: which share of a round's queries is of erased images, in [0, 1]; more where the pool has no others.
        distilled: how many images the clone labels itself, for each that is answered; 0 for no second training.
        copies: N, at least 1.
        area: a patch's least and greatest share of its image, in (0, 1]; the program's.
        aspect: the least height / width of a patch, and its greatest width / height; in (0, 1].
        about: erase about a pixel `drawn` by the map, or its `highest`.
        fill: what a patch becomes: the pool's `mean` color, or `noise`.
        least: as many optimizer steps each training takes at least: a hundred images need more passes than thousands.
        training: how the thief trains, each time.
    """

    budget: int = 20_000
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
        for name, low in (("budget", 1), ("distilled", 0), ("copies", 1), ("least", 0)):
            require(getattr(self, name) >= low, name, f"at least {low}", getattr(self, name))
        rising = all(a < b for a, b in pairwise((0, *self.totals)))
        require(rising, "totals", "rising numbers of at least 1", self.totals)
        require(0 <= self.erased <= 1, "erased", "in [0, 1]", self.erased)
        require(0 < self.area[0] <= self.area[1] <= 1, "area", "two rising shares in (0, 1]", self.area)
        require(0 < self.aspect <= 1, "aspect", "in (0, 1]", self.aspect)
        require(self.about in ("drawn", "highest"), "about", "`drawn` or `highest`", f"`{self.about}`")
        require(self.fill in ("mean", "noise"), "fill", "`mean` or `noise`", f"`{self.fill}`")

    @property
    def needed(self) -> int:
        return self.budget

    @classmethod
    def paper(cls) -> BlackboxDissector:
        """30,000 queries and 200 epochs, as for CIFAR-10; the rate falls after thirds where theirs falls after 60."""
        return cls(budget=30_000, training=Training(epochs=200, lr=0.02, schedule="step"))

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        if pool.dim() != 4:
            raise NotApplicable("it erases patches of images, and these inputs are none")
        size = min(self.budget, box.left)
        generator = torch.Generator().manual_seed(derive(seed, "queries"))
        unasked = torch.randperm(len(pool), generator=generator)
        first, color = copy.deepcopy(clone.state_dict()), pool.mean(dim=(0, 2, 3)).view(-1, 1, 1)
        stolen, whole = Transfer(size), torch.arange(0)
        for number, queries in enumerate(self._parts(size)):
            k = min(len(whole), max(int(self.erased * queries), queries - len(unasked)))
            if k:
                with seeded(derive(seed, "erased", number)):
                    rows, x = self._dissect(clone, stolen, whole, k, color)
                stolen.ask(box, x)
                whole = whole[torch.ones(len(whole), dtype=torch.bool).index_fill(0, rows, False)]
            start = len(stolen.x)
            stolen.ask(box, pool[unasked[: queries - k]])
            whole, unasked = torch.cat([whole, torch.arange(start, len(stolen.x))]), unasked[queries - k :]
            wanted = int(self.distilled * len(stolen.x))
            others = unasked[torch.randperm(len(unasked), generator=generator)[:wanted]]
            self._learn(clone, first, stolen, pool[others], color, derive(seed, "clone", number))
        return clone

    def _parts(self, size: int) -> list[int]:
        """How many queries each round has."""
        ends = [*(total for total in self.totals if total < size), size]
        return [b - a for a, b in pairwise((0, *ends))]

    def _learn(
        self, clone: nn.Module, first: dict[str, Tensor], stolen: Transfer, others: Tensor, color: Tensor, seed: int
    ) -> None:
        """Train on the answers, from the first weights, and again with others that the clone has labeled itself."""
        self._fit(clone, first, stolen.x, stolen.answers, derive(seed, "answers"))
        if len(others):
            with seeded(derive(seed, "labels")):
                labels = self._labels(clone, others, color).to(stolen.answers)
            x, y = torch.cat([stolen.x, others]), torch.cat([stolen.answers, labels])
            self._fit(clone, first, x, y, derive(seed, "answers and labels"))

    def _fit(self, clone: nn.Module, first: dict[str, Tensor], x: Tensor, y: Tensor, seed: int) -> None:
        clone.load_state_dict(first)
        steps = max(1, len(x) // self.training.batch)
        longer = replace(self.training, epochs=max(self.training.epochs, -(-self.least // steps)))
        fit(clone, x, y, longer, seed=seed, progress=False)

    @torch.no_grad()
    def _labels(self, clone: nn.Module, x: Tensor, color: Tensor) -> Tensor:
        """The clone's mean probabilities over copies of x, (N, C, H, W), each without a random patch: (N, K)."""
        device = next(clone.parameters()).device
        found = []
        for part in x.split(INPUTS):
            even = torch.ones(len(part) * self.copies, *part.shape[2:], device=device)
            erased = self._patched(part.to(device), draw_pixels(even), color.to(device))
            found.append(clone(erased).softmax(dim=1).unflatten(0, (len(part), self.copies)).mean(dim=1).to(x.device))
        return torch.cat(found)

    def _dissect(
        self, clone: nn.Module, stolen: Transfer, whole: Tensor, k: int, color: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which k of the images asked whole are to be asked erased, as rows of `whole`, (k,), and they, (k, C, H, W).

        Args:
            whole: the rows in the transfer set of those that were not erased yet.
        """
        erased, sure = [], []
        for rows in whole.split(INPUTS):
            images, surest = self._hide(clone, stolen.x[rows], stolen.answers[rows].argmax(dim=1), color)
            erased.append(images)
            sure.append(surest)
        picked = torch.cat(sure).topk(k).indices.cpu()
        return picked, torch.cat(erased)[picked]

    def _hide(self, clone: nn.Module, x: Tensor, labels: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
        """Of each image, (B, C, H, W), the erased copy that the clone finds least like its label; and how sure it is.

        Returns:
            The copies, (B, C, H, W), and the clone's greatest probability for each, (B,).
        """
        device = next(clone.parameters()).device
        b, home = torch.arange(len(x), device=device), x.device
        x, labels = x.to(device), labels.to(device)
        seen = class_activation(clone, x, labels).repeat_interleave(self.copies, dim=0)
        pixels = draw_pixels(seen) if self.about == "drawn" else seen.flatten(1).argmax(dim=1)
        erased = self._patched(x, pixels, color.to(device))
        with torch.no_grad():
            answers = clone(erased).softmax(dim=1).unflatten(0, (len(x), self.copies))
        least = answers[b, :, labels].argmin(dim=1)
        copies = erased.unflatten(0, (len(x), self.copies))
        return copies[b, least].to(home), answers[b, least].amax(dim=1).to(home)

    def _patched(self, x: Tensor, pixels: Tensor, color: Tensor) -> Tensor:
        """`copies` of each image of x, (B, C, H, W), one after the other, without a patch about the given pixels."""
        many = x.repeat_interleave(self.copies, dim=0)
        masks = patches(pixels, (x.shape[2], x.shape[3]), self.area, self.aspect)
        return erase(many, masks, color if self.fill == "mean" else torch.rand_like(many))
