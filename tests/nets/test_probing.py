"""What a user's net is checked for before it is trained: logits, an input left alone, and a state that holds all."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samples import mlp
from stealguard.errors import Invalid
from stealguard.nets import Adapted, adapted, build, check

LIKE = torch.rand(3, 16)
Answer = namedtuple("Answer", ["aux", "logits"])


class Ended(nn.Module):
    """A small net with `end` on its output."""

    def __init__(self, end, classes: int = 3):
        super().__init__()
        self.body, self.end = mlp(classes=classes), end

    def forward(self, x: Tensor):
        return self.end(self.body(x))


class OnlyInTraining(Ended):
    """A net whose end applies in training mode alone."""

    def forward(self, x: Tensor):
        return super().forward(x) if self.training else self.body(x)


class OnlyInUse(Ended):
    """A net whose end applies in evaluation mode alone."""

    def forward(self, x: Tensor):
        return self.body(x) if self.training else super().forward(x)


def test_a_net_that_gives_logits_is_taken_as_it_is() -> None:
    net = mlp()
    assert adapted(net, LIKE, 3) is net


@pytest.mark.parametrize(
    "end",
    [
        lambda z: {"logits": z, "hidden": z + 1},
        lambda z: Answer(z + 1, z),
        lambda z: (z, z + 1),
        lambda z: [z],
        lambda z: z.double(),
    ],
    ids=["mapping", "attribute", "tuple", "list", "float64"],
)
@pytest.mark.parametrize("kind", [Ended, OnlyInTraining])
def test_logits_are_taken_from_what_holds_them(kind, end) -> None:
    net = kind(end)
    found = adapted(net, LIKE, 3)
    assert isinstance(found, Adapted)
    for mode in (True, False):
        assert torch.equal(found.train(mode)(LIKE), net.body(LIKE))
    assert found(LIKE).dtype == LIKE.dtype


@pytest.mark.parametrize("end", [lambda z: z, lambda z: z.squeeze(1)], ids=["(N, 1)", "(N,)"])
def test_one_logit_stands_for_two_classes(end) -> None:
    net = Ended(end, classes=1)
    answer = adapted(net, LIKE, 2)(LIKE).softmax(dim=1)
    torch.testing.assert_close(answer[:, 1], net.body(LIKE).sigmoid().squeeze(1))
    with pytest.raises(Invalid, match=r"to logits \(N, 3\). Found `Ended` -> \(4"):
        adapted(net, LIKE, 3)


@pytest.mark.parametrize(
    ("end", "name", "classes"),
    [
        (nn.Softmax(dim=1), "softmax", 3),
        (nn.LogSoftmax(dim=1), "log_softmax", 3),
        (lambda z: z.softmax(1), "softmax", 3),
        (lambda z: F.log_softmax(z, dim=1), "log_softmax", 3),
        (lambda z: z.exp() / z.exp().sum(1, keepdim=True), "softmax", 3),
        (lambda z: z - z.logsumexp(1, keepdim=True), "log_softmax", 3),
        (lambda z: {"logits": z.softmax(1)}, "softmax", 3),
        (nn.Sigmoid(), "sigmoid", 3),
        (lambda z: z.sigmoid().squeeze(1), "sigmoid", 1),
    ],
)
@pytest.mark.parametrize("kind", [Ended, OnlyInTraining, OnlyInUse])
def test_normalized_rows_are_refused_by_name(kind, end, name: str, classes: int) -> None:
    with pytest.raises(Invalid, match=rf"to logits \(N, .\), without a {name} at its end. Found `{kind.__name__}`"):
        adapted(kind(end, classes), LIKE, max(2, classes))


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (mlp(classes=4), r"`Sequential` -> \(4, 4\) for 4 inputs"),
        (mlp(inputs=5), r"`Sequential`, which cannot take \(4, 16\): mat1 and mat2"),
        (Ended(lambda z: z / 0), "values that are not finite"),
        (Ended(lambda z: z.argmax(1)), r"`Ended` -> \(4,\)"),
        (Ended(lambda z: None), "`Ended` -> NoneType"),
        (Ended(lambda z: {"out": z, "aux": z}), r"`Ended` -> dict of out, aux \(it should have `logits`\)"),
        (Ended(lambda z: z.long()), r"`Ended` -> torch.int64"),
        (Ended(lambda z: z[:, None]), r"`Ended` -> \(4, 1, 3\)"),
        (OnlyInTraining(lambda z: 1 / 0), "`OnlyInTraining` in training mode, which cannot take .*division by zero"),
    ],
)
def test_what_is_no_logits_is_refused_by_name(net: nn.Module, found: str) -> None:
    with pytest.raises(
        Invalid, match=rf"`net` should be a module from inputs like .* to logits \(N, 3\). Found .*{found}"
    ):
        adapted(net, LIKE, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_are_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(Invalid, match=rf"`net` should be of torch.float32 weights.*Found `0.weight` of {dtype}"):
        adapted(mlp().to(dtype), LIKE, 3)


def test_trying_a_net_leaves_it_alone() -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    adapted(net, LIKE[:1], 3)
    check(net, LIKE[:1])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not net.training


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.sub_(0.5).div_(0.3))


class InPlaceBehindAutograd(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(2)
        return self.body(x)


@pytest.mark.parametrize("kind", [InPlace, InPlaceBehindAutograd])
@pytest.mark.parametrize("like", [LIKE, torch.zeros(2, 16)], ids=["inputs", "zeros"])
def test_a_net_that_works_in_place_gets_a_copy_of_its_input(kind, like: Tensor) -> None:
    net = build(kind(), like, 3, seed=0)
    x = LIKE.clone()
    first = net(x)
    assert torch.equal(x, LIKE)
    assert torch.equal(net(x), first)
    assert [name for name in net.state_dict() if not name.startswith("net.")] == []


class Running(nn.Module):
    """Learns a mean in training mode, by a buffer or a plain attribute, and uses it."""

    def __init__(self, how: str):
        super().__init__()
        self.body = mlp()
        if how == "attribute":
            self.mean = torch.zeros(16)
        elif how == "number":
            self.mean = 0.0
        else:
            self.register_buffer("mean", torch.zeros(16), persistent=how == "persistent")

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * (x.mean().item() if isinstance(self.mean, float) else x.mean(0))
        return self.body(x - self.mean)


def test_what_is_learned_outside_of_parameters_and_buffers_is_refused_by_name() -> None:
    for how in ("persistent", "buffer"):
        check(Running(how), LIKE)
    check(mlp(), LIKE)
    for how in ("attribute", "number"):
        with pytest.raises(
            Invalid, match=r"parameters and buffers hold all that it learns.* Found `mean`, which is lost"
        ):
            check(Running(how), LIKE)


def test_a_constant_outside_the_state_is_none_of_it() -> None:
    net = Running("buffer").eval()
    net.train = lambda mode=True: net  # it stays in evaluation mode: nothing changes
    check(net, LIKE)


def test_weights_that_are_not_registered_are_refused_by_name() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.out = [nn.Linear(16, 16)], nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layers[0](x))

    class Loose(Listed):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.w = [nn.ReLU()], torch.ones(16, requires_grad=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x * self.w)

    for net, name in ((Listed(), "layers"), (Loose(), "w")):
        with pytest.raises(Invalid, match=rf"made of registered parts .*Found `{name}`"):
            check(net, LIKE)


def test_tied_weights_pass() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.b(self.a(x).relu()).relu())

    net = build(Tied(), LIKE, 3, seed=0)
    check(net, LIKE)
    assert net.a.weight is net.b.weight


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (nn.BatchNorm1d(3, track_running_stats=False), "depend on the inputs beside it in evaluation mode"),
        (lambda z: z - z.mean(dim=0), "depend on the inputs beside it in evaluation mode. Found `Ended`, whose logits"),
        (lambda z: F.dropout(z), "the same logits whenever it is asked in evaluation mode"),
    ],
    ids=["batch normalization", "mean", "dropout"],
)
def test_logits_that_depend_on_chance_or_on_other_inputs_are_refused(part, found: str) -> None:
    with pytest.raises(Invalid, match=found):
        check(Ended(part), LIKE)


def test_parts_that_change_only_in_training_pass() -> None:
    check(nn.Sequential(mlp(), nn.BatchNorm1d(3), nn.Dropout()), LIKE)
