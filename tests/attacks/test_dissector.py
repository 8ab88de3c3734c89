"""Black-Box Dissector: the map and the erasing against closed forms and slow loops, and the queries of each round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samples import noise
from stealguard.attacks import BlackboxDissector
from stealguard.attacks.erasing import class_activation, draw_pixels, erase, patches
from stealguard.boxes import Labels, Metered
from stealguard.errors import Invalid, NotApplicable
from stealguard.nets import build
from stealguard.nets.resnet import Residual
from stealguard.training.loop import Training

ONE = Training(epochs=1, batch=16)
GRAY = (1, 8, 8)
QUICK = BlackboxDissector(60, totals=(20, 40), least=0, training=ONE)


def linear(shape: tuple[int, ...] = GRAY, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))


def rectangle(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of a mask (H, W) that should be a rectangle."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    top, left, height, width = rows[0], columns[0], len(rows), len(columns)
    assert mask[top : top + height, left : left + width].all()
    assert mask.sum() == height * width
    return int(top), int(left), height, width


class TestClassActivation:
    def test_the_map_of_a_linear_net_is_the_part_of_each_pixel(self) -> None:
        net, x, classes = linear((3, 8, 8)), noise(5, (3, 8, 8)), torch.tensor([0, 1, 2, 0, 1])
        weight = net[1].weight.detach()[classes].view(5, 3, 8, 8)  # type: ignore[index]
        torch.testing.assert_close(class_activation(net, x, classes), (weight * x).sum(dim=1).relu())

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_map_of_a_convolution_and_a_mean_is_the_class_activation_map(self, channels: int) -> None:
        """CAM (Zhou et al. 2016): the classifier's weights times the features; Grad-CAM is that over their number."""
        torch.manual_seed(0)
        conv, head = nn.Conv2d(channels, 6, 3, padding=1), nn.Linear(6, 4)
        net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        x, classes = noise(7, (channels, 8, 8)), torch.arange(7) % 4
        with torch.no_grad():
            expected = torch.einsum("nk,nkhw->nhw", head.weight[classes], conv(x).relu()).relu() / 64
        torch.testing.assert_close(class_activation(net, x, classes), expected)

    def test_a_coarse_map_is_enlarged(self) -> None:
        net = build("lenet5", noise(9), 5, seed=0).eval()
        x, classes = noise(3), torch.tensor([0, 3, 4])
        last = net.body[5]  # type: ignore[index, operator]  # what nn.Flatten is given
        maps: list[Tensor] = []
        hook = last.register_forward_hook(lambda module, inputs, output: maps.append(output))
        score = net(x).gather(1, classes[:, None]).sum()
        hook.remove()
        slope = torch.autograd.grad(score, maps[0])[0]
        slow = torch.stack([
            sum(slope[n, k].mean() * maps[0][n, k] for k in range(16)).relu() for n in range(3)  # type: ignore[union-attr]
        ])  # fmt: skip
        expected = F.interpolate(slow[:, None], size=(28, 28), mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(class_activation(net, x, classes), expected.detach())

    def test_the_map_of_a_residual_net_is_of_its_last_sum(self) -> None:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        residual, head = Residual(body, nn.Identity()), nn.Linear(4, 3)
        stem = nn.Conv2d(1, 4, 3, padding=1)
        net = nn.Sequential(stem, residual, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
        x, classes = noise(3, GRAY), torch.tensor([0, 1, 2])
        with torch.no_grad():
            expected = torch.einsum("nk,nkhw->nhw", head.weight[classes], residual(stem(x))).relu() / 64
        torch.testing.assert_close(class_activation(net, x, classes), expected)

    def test_the_map_leaves_neither_hooks_nor_gradients(self) -> None:
        net = build("lenet5", noise(9), 5, seed=0).eval()
        seen = class_activation(net, noise(2), torch.tensor([0, 1]))
        assert not seen.requires_grad
        assert all(not module._forward_hooks for module in net.modules())
        assert all(p.grad is None for p in net.parameters())


class TestErasing:
    def test_pixels_are_drawn_in_proportion_to_their_weights(self) -> None:
        torch.manual_seed(0)
        weights = torch.zeros(4000, 2, 3)
        weights[:, 0, 1], weights[:, 1, 2] = 1.0, 3.0
        drawn = draw_pixels(weights).bincount(minlength=6) / 4000
        torch.testing.assert_close(drawn, torch.tensor([0, 0.25, 0, 0, 0, 0.75]), atol=0.03, rtol=0)
        flat = draw_pixels(torch.zeros(6000, 2, 3)).bincount(minlength=6) / 6000
        torch.testing.assert_close(flat, torch.full((6,), 1 / 6), atol=0.03, rtol=0)

    @pytest.mark.parametrize("size", [(28, 28), (12, 40)])
    def test_patches_are_rectangles_that_cover_their_pixel(self, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        pixels = torch.randint(size[0] * size[1], (300,))
        for mask, pixel in zip(patches(pixels, size, (0.02, 0.1), 0.3), pixels, strict=True):
            _, _, height, width = rectangle(mask)
            assert mask.flatten()[pixel]
            whole = size[0] * size[1]
            assert (height - 0.5) * (width - 0.5) <= 0.1 * whole
            assert (height + 0.5) * (width + 0.5) >= 0.02 * whole
            assert (height + 0.5) / (width - 0.5) >= 0.3
            assert (height - 0.5) / (width + 0.5) <= 1 / 0.3

    def test_a_patch_is_centered_if_there_is_room(self) -> None:
        pixels = torch.tensor([5 * 11 + 5, 0, 10, 120])
        masks = patches(pixels, (11, 11), (9 / 121, 9 / 121), 1.0)
        assert [rectangle(mask) for mask in masks] == [(4, 4, 3, 3), (0, 0, 3, 3), (0, 8, 3, 3), (8, 8, 3, 3)]

    def test_a_patch_may_be_the_whole_image(self) -> None:
        assert patches(torch.tensor([3, 60]), (8, 8), (1.0, 1.0), 1.0).all()

    def test_only_the_patch_is_filled(self) -> None:
        x, color = noise(5, (3, 8, 8)), torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
        masks = patches(torch.arange(5) * 11, (8, 8), (0.1, 0.2), 0.5)
        erased = erase(x, masks, color)
        for image, mask, before in zip(erased, masks, x, strict=True):
            for channel in range(3):
                assert torch.equal(image[channel][~mask], before[channel][~mask])
                assert (image[channel][mask] == color[channel]).all()


class Weighted(nn.Module):
    """Of two classes: the first's logit is the sum of the weighted pixels, the second's is 0."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).flatten(1).sum(dim=1)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


class TestHiding:
    def test_the_most_salient_patch_is_the_one_erased(self) -> None:
        weight = torch.zeros(1, 9, 9)
        weight[0, 6, 2] = 5.0
        attack = replace(QUICK, area=(9 / 81, 9 / 81), aspect=1.0)
        x, color = 0.5 + 0.5 * noise(4, (1, 9, 9)), torch.full((1, 1, 1), 0.25)
        for about in ("drawn", "highest"):
            erased, _ = replace(attack, about=about)._hide(Weighted(weight), x, torch.zeros(4, dtype=torch.long), color)  # type: ignore[arg-type]
            expected = x.clone()
            expected[:, :, 5:8, 1:4] = 0.25
            assert torch.equal(erased, expected)

    def test_the_copy_least_like_the_label_is_chosen(self) -> None:
        net, x, labels = linear(), noise(130, GRAY), torch.arange(130) % 3
        color = torch.full((1, 1, 1), 0.5)
        torch.manual_seed(0)
        erased, confidence = QUICK._hide(net, x, labels, color)
        torch.manual_seed(0)
        seen = class_activation(net, x, labels).repeat_interleave(10, dim=0)
        tried = QUICK._patched(x, draw_pixels(seen), color).view(130, 10, *GRAY)
        for n in range(130):
            answers = net(tried[n]).softmax(dim=1).detach()
            least = answers[:, labels[n]].argmin()
            assert torch.equal(erased[n], tried[n, least])
            torch.testing.assert_close(confidence[n], answers[least].max())

    def test_labels_are_mean_predictions_for_random_erasures(self) -> None:
        """If all pixels have the same weight, the mean loss is the mean area, so the label is known in advance."""
        net = Weighted(torch.full(GRAY, 0.02))
        attack, x, color = replace(QUICK, copies=4000, area=(0.25, 0.25)), torch.ones(2, *GRAY), torch.zeros(1, 1, 1)
        torch.manual_seed(0)
        found = attack._labels(net, x, color)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
        expected = torch.tensor(0.02 * 64 * 0.75).sigmoid()
        torch.testing.assert_close(found[:, 0].detach(), expected.expand(2), atol=0.01, rtol=0)

    def test_a_patch_may_be_filled_with_noise(self) -> None:
        attack, x = replace(QUICK, fill="noise", area=(1.0, 1.0), aspect=1.0), torch.zeros(2, *GRAY)
        erased, _ = attack._hide(linear(), x, torch.tensor([0, 1]), torch.zeros(1, 1, 1))
        assert len(erased.unique()) > 100
        assert 0 <= erased.min() <= erased.max() <= 1


class Box:
    """Keeps the queries; answers by the first values."""

    def __init__(self, classes: int = 3) -> None:
        self.classes, self.seen = classes, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return (8 * x.flatten(1)[:, : self.classes]).softmax(dim=1)


def steal(attack: BlackboxDissector, pool: Tensor, budget: int = 0, classes: int = 3) -> tuple[Metered, list[Tensor]]:
    box = Box(classes)
    metered = Metered(Labels(box), budget or attack.budget)
    attack(metered, pool, linear(tuple(pool.shape[1:]), classes), seed=0)
    return metered, box.seen


def whole(asked: Tensor, pool: Tensor) -> Tensor:
    """Which queries are unchanged inputs of the pool."""
    return (asked.flatten(1)[:, None] == pool.flatten(1)[None]).all(dim=2).any(dim=1)


class TestRounds:
    def test_a_quarter_of_each_round_is_erased(self) -> None:
        pool = noise(100, GRAY)
        _, seen = steal(BlackboxDissector(100, totals=(20, 60), least=0, training=ONE), pool)
        assert [len(x) for x in seen] == [20, 10, 30, 10, 30]
        assert [whole(x, pool).all().item() for x in seen] == [True, False, True, False, True]
        assert not whole(seen[1], pool).any()

    def test_every_input_is_asked_once_and_erased_at_most_once(self) -> None:
        pool = noise(200, GRAY)
        _, seen = steal(BlackboxDissector(150, totals=(20, 60, 100), erased=0.5, least=0, training=ONE), pool)
        asked = torch.cat(seen)
        assert len(asked.unique(dim=0)) == 150
        patched = asked[~whole(asked, pool)].flatten(1)
        shared = (patched[:, None] == pool.flatten(1)[None]).sum(dim=2)
        assert len(shared.argmax(dim=1).unique()) == len(patched) == 20 + 20 + 20
        origin = pool[shared.argmax(dim=1)]
        assert whole(origin, asked).all()  # only images that were asked whole are erased

    def test_patches_have_the_mean_color_of_the_pool(self) -> None:
        pool = torch.cat([noise(60, GRAY), 0.5 * noise(60, GRAY, seed=4), noise(60, GRAY, seed=5) ** 2], dim=1)
        _, seen = steal(replace(QUICK, budget=40, totals=(20,)), pool)
        asked = torch.cat(seen)
        patched = asked[~whole(asked, pool)]
        shared = (patched.flatten(1)[:, None] == pool.flatten(1)[None]).sum(dim=2).argmax(dim=1)
        changed = (patched != pool[shared]).any(dim=1)
        color = pool.mean(dim=(0, 2, 3))
        assert len(patched) == 5
        for image, mask in zip(patched, changed, strict=True):
            rectangle(mask)
            torch.testing.assert_close(image[:, mask], color[:, None].expand(3, int(mask.sum())))

    @pytest.mark.parametrize("budget", [1, 2, 3, 21, 60])
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 9)])
    def test_the_budget_is_spent(self, budget: int, shape: tuple[int, ...]) -> None:
        attack = BlackboxDissector(budget, totals=(1, 2, 10, 40), copies=3, least=0, training=ONE)
        assert steal(attack, noise(60, shape))[0].left == 0

    def test_it_ends_when_the_box_answers_no_more(self) -> None:
        metered, seen = steal(QUICK, noise(80, GRAY), budget=31)
        assert metered.left == 0
        assert len(torch.cat(seen).unique(dim=0)) == 31

    def test_a_small_pool_gives_more_erased_images(self) -> None:
        metered, seen = steal(QUICK, noise(35, GRAY))
        assert metered.left == 0
        assert len(torch.cat(seen).unique(dim=0)) == 60
        assert steal(QUICK, noise(10, GRAY))[0].spent == 20  # ten images, and each of them erased once

    @pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 2), ((3, 8, 8), 100)])
    def test_any_channels_and_number_of_classes(self, shape: tuple[int, ...], classes: int) -> None:
        runs = [torch.cat(steal(QUICK, noise(80, shape), classes=classes)[1]) for _ in range(2)]
        assert runs[0].shape == (60, *shape)
        assert torch.equal(*runs)

    def test_a_convolutional_clone(self) -> None:
        box = Box(5)
        QUICK(Metered(box, 60), noise(80), build("lenet5", noise(9), 5, seed=0), seed=0)
        assert sum(map(len, box.seen)) == 60

    def test_inputs_that_are_not_images_are_not_applicable_before_the_first_query(self) -> None:
        metered = Metered(Box(), 60)
        with pytest.raises(NotApplicable, match="these inputs are not images"):
            QUICK(metered, noise(80, (16,)), linear((16,)), seed=0)
        assert metered.spent == 0

    def test_distillation_changes_the_clone_and_no_query_of_the_first_round(self) -> None:
        def learned(share: float) -> tuple[Tensor, Tensor]:
            box, clone = Box(), linear()
            replace(QUICK, budget=20, distilled=share)(Metered(Labels(box), 20), noise(80, GRAY), clone, seed=0)
            return box.seen[0], clone(noise(4, GRAY)).detach()

        (plain, alone), (same, softened) = learned(0.0), learned(1.0)
        assert torch.equal(plain, same)
        assert not torch.equal(alone, softened)


@pytest.mark.slow
def test_labels_of_a_linear_victim_are_learned() -> None:
    torch.manual_seed(1)
    victim, clone, pool = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), linear(), noise(3000, GRAY)
    attack = BlackboxDissector(2000, totals=(500,), training=Training(epochs=20, lr=0.1))
    attack(Metered(Labels(lambda x: victim(x).softmax(1).detach()), 2000), pool, clone, seed=0)
    fresh = noise(1000, GRAY, seed=9)
    assert (clone(fresh).argmax(1) == victim(fresh).argmax(1)).double().mean() > 0.9


def test_the_papers_settings() -> None:
    attack = BlackboxDissector.paper()
    assert (attack.budget, attack.training.epochs, attack.copies) == (30_000, 200, 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("totals", (5, 5)),
        ("totals", (0, 5)),
        ("erased", 1.5),
        ("distilled", -1.0),
        ("copies", 0),
        ("area", (0.3, 0.2)),
        ("aspect", 0.0),
        ("about", "center"),
        ("fill", "black"),
        ("least", -1),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        replace(BlackboxDissector(), **{name: value})
