"""InI's first-order terms against double backward, the oracle, in float64."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

import pytest
import torch
from benchmarks import double_backward as oracle
from benchmarks import step_cost
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stealguard as sg
from stealguard.defenses.surrogate import (
    READINGS,
    LastLayer,
    Linearization,
    _moves,
    _Traced,
    isolation,
    isolation_at,
    magnitude,
    magnitude_at,
)
from stealguard.errors import Invalid
from stealguard.nets import build, reinitialized
from stealguard.nets.resnet import Residual
from stealguard.training import losses
from stealguard.training.combine import pcgrad
from stealguard.types import Batch


def lenet() -> nn.Module:
    return build("lenet5", torch.rand(4, 1, 28, 28), 10, seed=0).double()


def small_resnet() -> nn.Module:
    def conv(i: int, o: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(i, o, 3, stride, padding=1, bias=False), nn.BatchNorm2d(o))

    torch.manual_seed(0)
    block = Residual(nn.Sequential(conv(4, 4), nn.ReLU(inplace=True), conv(4, 4)), nn.Identity())
    down = Residual(nn.Sequential(conv(4, 8, 2), nn.ReLU(), conv(8, 8)), conv(4, 8, 2))
    net = nn.Sequential(conv(1, 4), nn.ReLU(), block, down, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return net.double()


class Gated(nn.Module):
    """Operations without a rule of their own: attention-like products, softmax, concatenation, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(28, 8), nn.Linear(28, 8), nn.LayerNorm(16)
        self.out = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        a, b = self.a(x), torch.tanh(self.b(x))
        mixed = torch.softmax(a @ b.transpose(1, 2), dim=-1) @ b
        return self.out(self.norm(torch.cat([mixed, a * b], dim=-1)).mean(dim=1))


def gated() -> nn.Module:
    torch.manual_seed(0)
    return Gated().double()


NETS = [lenet, small_resnet, gated]


def batch(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(5)
    x, z = torch.rand(2, n, 1, 28, 28, generator=generator, dtype=torch.float64)
    return Batch(x, torch.randint(10, (n,), generator=generator), z)


def last_name(net: nn.Module) -> str:
    return [name for name, part in net.named_modules() if isinstance(part, nn.Linear)][-1]


class ByLastLayer(nn.Module):
    """A surrogate whose parameters are those of its last layer alone: how the oracle takes gradients of no others."""

    def __init__(self, surrogate: nn.Module):
        super().__init__()
        self.last = surrogate.get_submodule(last_name(surrogate)).requires_grad_()
        self.run = [surrogate]

    def forward(self, x: Tensor) -> Tensor:
        return self.run[0](x)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("make", NETS)
class TestAgainstDoubleBackward:
    @pytest.mark.slow
    @pytest.mark.no_cover
    def test_each_term(self, make, reading: str) -> None:
        victim, (x, y, z) = make(), batch()
        defended = sg.InI(reading=reading).build(victim, x[:2])
        ours, surrogate = defended.losses(Batch(x, y, z)), defended.surrogates(x)[0].requires_grad_()
        theirs = oracle.losses(victim, surrogate, x, y, z, reading, (0.3, 1.0, 1000.0))
        parameters = list(victim.parameters())
        for (name, mine), other in zip(ours.items(), theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-9, msg=name)
            got = torch.autograd.grad(mine, parameters, retain_graph=True)
            expected = torch.autograd.grad(other, parameters, retain_graph=True)
            assert max(g.abs().max() for g in expected) > 1e-4, f"{name}: the oracle's gradient must not vanish"
            for g, e in zip(got, expected, strict=True):
                torch.testing.assert_close(g, e, rtol=0, atol=1e-9)

    @pytest.mark.slow
    @pytest.mark.no_cover
    def test_under_pcgrad_in_the_same_order(self, make, reading: str) -> None:
        victim, (x, y, z) = make(), batch()
        defended = sg.InI(reading=reading).build(victim, x[:2])
        surrogate = defended.surrogates(x)[0].requires_grad_()
        parameters = list(victim.parameters())
        orders = [[2, 0, 3, 1], [1, 2, 3, 0], [3, 0, 1, 2], [0, 3, 2, 1]]
        oracle.pcgrad(oracle.losses(victim, surrogate, x, y, z, reading, (0.3, 1.0, 1000.0)), parameters, orders)
        expected = [p.grad.clone() for p in parameters]
        ours = defended.losses(Batch(x, y, z))
        pcgrad(list(ours.values()), parameters, orders)
        for p, e in zip(parameters, expected, strict=True):
            torch.testing.assert_close(p.grad, e, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("make", NETS)
def test_jacobian_vector_products_agree_with_torchs(make) -> None:
    net, x = make().eval(), batch().x
    names, weights = zip(*net.named_parameters(), strict=True)
    generator = torch.Generator().manual_seed(1)
    tangents = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]

    def forward(*values: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

    logits, expected = torch.func.jvp(forward, weights, tuple(tangents))
    at = Linearization(net, x)
    torch.testing.assert_close(at.logits, logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(at.jvp(tangents), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("make", NETS)
class TestLastLayer:
    """The closed forms against double backward of a surrogate in which all but the last layer is frozen."""

    def test_each_term(self, make, reading: str) -> None:
        victim, (x, y, z) = make(), batch()
        defended = sg.InI(reading=reading, surrogate_layers="head").build(victim, x[:2])
        ours, surrogate = defended.losses(Batch(x, y, z)), ByLastLayer(defended.surrogates(x)[0])
        parameters = list(victim.parameters())
        expected = {
            "isolation": oracle.isolation(victim(x), surrogate, x, y, reading),
            "magnitude": 1000 * oracle.magnitude(victim(z), surrogate, z, reading),
        }
        for name, theirs in expected.items():
            torch.testing.assert_close(ours[name], theirs, rtol=0, atol=1e-9, msg=name)
            got = torch.autograd.grad(ours[name], parameters, retain_graph=True)
            wanted = torch.autograd.grad(theirs, parameters, retain_graph=True)
            assert max(g.abs().max() for g in wanted) > 1e-4, f"{name}: the oracle's gradient must not vanish"
            for g, w in zip(got, wanted, strict=True):
                torch.testing.assert_close(g, w, rtol=0, atol=1e-9)

    @pytest.mark.slow
    def test_products_are_those_of_all_weights_restricted_to_the_last_layer(self, make, reading: str) -> None:
        net, x = make().eval(), batch().x
        at, whole = LastLayer(net, x), Linearization(net, x)
        generator = torch.Generator().manual_seed(2)
        c = torch.randn(at.logits.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(at.logits, whole.logits, rtol=0, atol=1e-12)
        pulled, of_all = at.vjp(c), whole.vjp(c)
        names = [name for name, _ in net.named_parameters()]
        last = [names.index(name) for name in names if name.rsplit(".", 1)[0] == last_name(net)]
        assert len(pulled) == len(last) == 2
        u = [torch.zeros_like(g) for g in of_all]
        for i, g in zip(last, pulled, strict=True):
            torch.testing.assert_close(g, of_all[i], rtol=0, atol=1e-12)
            u[i] = torch.randn(g.shape, generator=generator, dtype=g.dtype)
        torch.testing.assert_close(at.jvp([u[i] for i in last]), whole.jvp(u), rtol=0, atol=1e-9)


def test_a_single_linear_layer_is_its_own_head() -> None:
    """All weights are the last layer's: the published form is the oracle, here for a layer without a bias too."""
    (x, y, _), generator = batch(), torch.Generator().manual_seed(4)
    v = torch.randn(6, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    for bias in True, False:
        surrogate = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=bias)).double().eval()
        for term, theirs in (
            (isolation_at(v, LastLayer(surrogate, x), y), isolation(v, surrogate, x, y)),
            (magnitude_at(v, LastLayer(surrogate, x)), magnitude(v, surrogate, x)),
        ):
            torch.testing.assert_close(term, theirs, rtol=0, atol=1e-12)
            (got,), (expected,) = torch.autograd.grad(term, v), torch.autograd.grad(theirs, v)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_net_that_does_not_end_with_a_linear_layer_is_named() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Tanh()).double(), batch().x
    with pytest.raises(Invalid, match=r"a module that ends with an `nn\.Linear`, called once.* Found `Sequential`"):
        LastLayer(net, x)
    assert not any(part._forward_hooks for part in net.modules())


class Ending(nn.Module):
    """A net whose last layer is called, and whose output is used, as `end` does it."""

    def __init__(self, end: Callable[[nn.Linear, Tensor], Tensor]):
        super().__init__()
        self.layer, self.end = nn.Linear(4, 4).double(), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.layer, x.sub_(0.5))


@pytest.mark.parametrize(
    "end",
    [
        lambda layer, x: F.relu_(layer(x)),
        lambda layer, x: layer(x).div_(2),
        lambda layer, x: layer(layer(x)),
        lambda layer, x: (layer(h := x.clone()), h.zero_())[0],
    ],
    ids=["activated in place", "divided in place", "called twice", "features changed"],
)
def test_a_last_layer_that_does_not_give_the_logits_by_its_formula_is_refused(
    end: Callable[[nn.Linear, Tensor], Tensor],
) -> None:
    with pytest.raises(Invalid, match="called once, whose output is not changed in place"):
        LastLayer(Ending(end), torch.rand(5, 4, dtype=torch.float64))


def test_a_last_layer_may_be_called_by_keyword_and_the_inputs_stay_as_they_are() -> None:
    x = torch.rand(5, 4, dtype=torch.float64)
    before = x.clone()
    at = LastLayer(Ending(lambda layer, x: layer(input=x)), x)
    assert torch.equal(x, before)
    torch.testing.assert_close(at.vjp(torch.ones(5, 4).double())[0], (x - 0.5).sum(dim=0).expand(4, 4))


def test_reading_the_head_leaves_modes_and_statistics_alone() -> None:
    x, net = batch().x, small_resnet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    at = LastLayer(net, x)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(at.logits, net.eval()(x))


def test_wrong_layers_of_the_surrogate_are_named() -> None:
    with pytest.raises(Invalid, match=r"`surrogate_layers` should be one of all, head\. Found `last`"):
        sg.InI(surrogate_layers="last")


@pytest.mark.parametrize("name", ["surrogates", "isolate_every"])
def test_numbers_below_one_are_named(name: str) -> None:
    with pytest.raises(Invalid, match=rf"`{name}` should be at least 1\. Found `?0"):
        sg.InI(**{name: 0})


def test_a_jacobian_vector_product_frees_what_backward_passes_read() -> None:
    net, x = build("lenet5", torch.rand(2, 1, 28, 28), 10, seed=0), torch.rand(2, 1, 28, 28)
    products = Linearization(net, x)._products
    assert isinstance(products, _Traced)
    products.jvp(products.vjp(torch.ones(2, 10)))
    kept = [products.logits, *products._tape._values.values(), *products._tape.env.values()]
    assert not any(map(_moves, kept))


class Live(TorchDispatchMode):
    """Counts the most bytes of tensors that are made in it and are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._storages = 0, WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self._storages.update(self._of(result) - self._of((args, kwargs)))
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._storages))
        return result

    def _of(self, values: object) -> set[torch.UntypedStorage]:
        return {value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)}


@pytest.mark.slow
def test_an_exact_step_adds_three_tenths_of_the_memory_that_double_backward_adds() -> None:
    """To that of a plain step, each at its peak; what single operations take while they run is not seen here."""
    steps, peaks = step_cost.steps(*step_cost.NETS["lenet5-1"]), {}
    for name in step_cost.PLAIN, step_cost.AUTHORS, "ini":
        steps[name]()  # checks and traces the surrogate
        with Live() as live:
            steps[name]()
        peaks[name] = live.peak
    added = {name: peak - peaks[step_cost.PLAIN] for name, peak in peaks.items()}
    assert 0 < added["ini"] <= 0.3 * added[step_cost.AUTHORS]


class Convolutions(TorchDispatchMode):
    """Notes the results of convolutions, (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten.convolution.default:
            self.results.append(result)
        return result


def test_tangents_take_the_layout_of_the_weights() -> None:
    """LeNet-5 is channels last. Gradients of weights that read a single channel come in the default layout."""
    net, x = build("lenet5", torch.rand(2, 1, 28, 28), 10, seed=0), torch.rand(2, 1, 28, 28)
    at = Linearization(net, x)
    u = [t.sign() for t in at.vjp(torch.ones(2, 10))]
    with Convolutions() as noted:
        at.jvp(u)
    assert noted.results
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in noted.results)


def test_vjp_and_jvp_are_each_others_transpose() -> None:
    at = Linearization(lenet().eval(), batch().x)
    generator = torch.Generator().manual_seed(2)
    c = torch.randn(at.logits.shape, generator=generator, dtype=torch.float64)
    pulled = at.vjp(c)
    u = [torch.randn(g.shape, generator=generator, dtype=torch.float64) for g in pulled]
    left = sum((g * t).sum() for g, t in zip(pulled, u, strict=True))
    torch.testing.assert_close(left, (at.jvp(u) * c).sum(), rtol=1e-10, atol=0)


@pytest.mark.slow
def test_gradients_in_float32_are_close_to_float64() -> None:
    """A float32 double backward is off by 1e-3; the first-order form keeps float32's own precision."""
    victim, (x, y, _) = small_resnet(), batch()
    surrogate = reinitialized(victim, seed=3).eval()
    v = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(isolation(v, surrogate, x, y), v)
    w = v.detach().float().requires_grad_()
    (single,) = torch.autograd.grad(isolation(w, surrogate.float(), x.float(), y), w)
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-7)


def test_the_terms_have_gradients_in_the_victim_alone() -> None:
    surrogate, (x, y, z) = lenet().eval(), batch()
    v = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    (isolation(v, surrogate, x, y) + magnitude(v, surrogate, z)).backward()
    assert v.grad is not None
    assert all(p.grad is None for p in surrogate.parameters())


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.sampled_from(READINGS), st.integers(0, 1000))
def test_gradcheck_on_any_linear_surrogate(classes: int, n: int, reading: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    surrogate = nn.Linear(4, classes).double().eval()
    x = torch.rand(n, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (n,), generator=generator)
    v = torch.randn(n, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: isolation(v, surrogate, x, y, reading), v, atol=1e-6)
    assert -1 - 1e-9 <= isolation(v, surrogate, x, y, reading) <= 1 + 1e-9


def test_an_answer_that_is_the_label_is_not_isolated() -> None:
    """As in the paper: a victim that answers the labels themselves gives the clone exactly the true gradient."""
    surrogate, (x, y, _) = lenet().eval(), batch()
    sure = 60.0 * F.one_hot(y, 10).double()
    torch.testing.assert_close(isolation(sure, surrogate, x, y, "paper"), torch.tensor(1.0, dtype=torch.float64))


def test_an_answer_like_the_surrogates_own_gives_no_gradient() -> None:
    surrogate, z = lenet().eval(), batch().outliers
    assert magnitude(surrogate(z), surrogate, z).item() < 1e-16
    assert losses.induction(surrogate(z), losses.center(surrogate(z))).item() < 1e-14


def test_a_surrogate_is_read_in_evaluation_mode_and_left_in_its_own() -> None:
    x, net = batch().x, small_resnet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    at = Linearization(net, x)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(at.logits, net.eval()(x))


def test_bad_input_is_named() -> None:
    surrogate, (x, y, _) = lenet().eval(), batch()
    with pytest.raises(Invalid, match=r"`reading` should be one of paper, official. Found `offical`"):
        isolation(torch.zeros(6, 10, dtype=torch.float64), surrogate, x, y, "offical")
