"""The frozen surrogate that stands for a thief, and InI's gradient terms in exact first-order form.

What a thief learns from an answer enters its gradient linearly: with J the Jacobian of the surrogate's logits in its
parameters, d/dt D = J^T c, where c depends on what the victim answers in closed form. So each term below is a scalar
whose derivative with respect to the victim's logits is known by hand from two vector-Jacobian products and one
Jacobian-vector product of the surrogate; no graph of a graph is ever built. (Guo et al., ACM MM 2023, equations of
isolation and induction; `reading="paper"` takes the thief's loss D = KL(p || q), `"official"` the authors' program,
which computes KL(q || p).)
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.nn import functional as F

from stealguard.errors import require
from stealguard.training.losses import inner, mean_abs, norm

Reading = Literal["paper", "official"]
READINGS = get_args(Reading)


def isolation(logits: Tensor, surrogate: nn.Module, x: Tensor, y: Tensor, reading: Reading = "official") -> Tensor:
    """Cosine between the gradient a thief gets from the victim's answers and the one the true labels give.

    Args:
        logits: the victim's on `x`, (B, K).
        surrogate: any frozen module from `x` to logits (B, K); it is read in evaluation mode.
        x: task inputs, (B, ...).
        y: their labels, (B,).
        reading: which way round the thief's divergence is taken.

    Returns:
        A scalar in [-1, 1], differentiable with respect to `logits` only.
    """
    s = Linearization(surrogate, x)
    clone = Lesson(logits, s.logits, reading)
    g1, g2 = s.vjp(clone.cotangent), s.vjp(Lesson.of_labels(y, s.logits))
    n1, n2 = norm(g1), norm(g2)
    cosine = inner(g1, g2) / (n1 * n2)
    u = [(b / n2 - cosine * a / n1) / n1 for a, b in zip(g1, g2, strict=True)]
    return _Known.apply(logits, cosine, clone.pullback(s.jvp(u)))


def magnitude(logits: Tensor, surrogate: nn.Module, z: Tensor, reading: Reading = "official") -> Tensor:
    """Mean absolute entry of the gradient that a thief gets from the victim's answers on outliers.

    Args and returns as for `isolation`; the scalar is at least 0.
    """
    return magnitude_at(logits, Linearization(surrogate, z), reading)


def magnitude_at(logits: Tensor, surrogate: Linearization, reading: Reading = "official") -> Tensor:
    """`magnitude` for a surrogate that is already linearized at the outliers."""
    clone = Lesson(logits, surrogate.logits, reading)
    g = surrogate.vjp(clone.cotangent)
    size = sum(t.numel() for t in g)
    return _Known.apply(logits, mean_abs(g), clone.pullback(surrogate.jvp([t.sign() / size for t in g])))


class Lesson:
    """What the victim's answers teach: the gradient of D in the surrogate's logits, and its derivative.

    `cotangent` is c = dD/ds, (B, K). `pullback(w)` is the gradient of <c, w> with respect to the victim's logits.
    """

    def __init__(self, logits: Tensor, surrogate_logits: Tensor, reading: Reading):
        require(reading in READINGS, "reading", f"one of {', '.join(READINGS)}", f"`{reading}`")
        log_q = F.log_softmax(surrogate_logits, dim=1)
        log_p = F.log_softmax(logits.detach().to(log_q.dtype), dim=1)
        self.reading, self.p, self.q = reading, log_p.exp(), log_q.exp()
        self.cotangent = (self.q - self.p if reading == "paper" else _softmax_jvp(self.q, log_q - log_p)) / len(log_p)

    @staticmethod
    def of_labels(y: Tensor, surrogate_logits: Tensor) -> Tensor:
        """The cotangent that true labels (B,) give: d CE / ds = (q - y) / B."""
        q = surrogate_logits.softmax(dim=1)
        return (q - F.one_hot(y, q.shape[1]).to(q)) / len(q)

    def pullback(self, w: Tensor) -> Tensor:
        """The gradient in v of <c(v), w>, for the surrogate's tangent w, (B, K)."""
        if self.reading == "paper":
            return _softmax_jvp(self.p, -w / len(w))
        a = -_softmax_jvp(self.q, w) / len(w)  # derivative in log p; log softmax then gives a - p sum(a)
        return a - self.p * a.sum(dim=1, keepdim=True)


def _softmax_jvp(p: Tensor, a: Tensor) -> Tensor:
    """(diag(p) - p p^T) a, row by row."""
    return p * (a - (p * a).sum(dim=1, keepdim=True))


class _Known(torch.autograd.Function):
    """A scalar whose gradient with respect to the logits is already known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(logits.dtype))
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None


class Linearization:
    """A frozen module at `x`: its logits (B, K), and products with its Jacobian in the parameters, from one forward.

    The forward runs as a traced graph of elementary operations and keeps every intermediate value, so the
    Jacobian-vector product spends nothing on computing them again.
    """

    def __init__(self, module: nn.Module, x: Tensor):
        self._weights = [p.detach().requires_grad_() for p in module.parameters()]
        self._tape = _Tape(_graph(module, x))
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            self._logits = self._tape.run(*self._weights, *module.buffers(), x.detach())
        self.logits = self._logits.detach()

    def vjp(self, c: Tensor) -> list[Tensor]:
        """J^T c: one tensor a parameter."""
        return list(torch.autograd.grad(self._logits, self._weights, c, retain_graph=True, materialize_grads=True))

    def jvp(self, u: Sequence[Tensor]) -> Tensor:
        """J u, (B, K), for a tangent of one tensor a parameter."""
        return self._tape.push(u)


_graphs: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], fx.GraphModule]] = WeakKeyDictionary()


def _graph(module: nn.Module, x: Tensor) -> fx.GraphModule:
    """The module as elementary operations (parameters, buffers, x) -> logits, traced once for each shape of x."""
    known = _graphs.setdefault(module, {})
    key = (x.shape, x.dtype, x.device)
    if key not in known:
        weights, buffers = dict(module.named_parameters()), dict(module.named_buffers())

        def forward(*tensors: Tensor) -> Tensor:
            *state, x = tensors
            named = dict(zip([*weights, *buffers], state, strict=True))
            return functional_call(module, named, (x,))  # type: ignore[no-any-return]

        with torch.no_grad(), _evaluating(module):
            known[key] = make_fx(functionalize(forward))(*weights.values(), *buffers.values(), x.detach())
    return known[key]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and each part in its own mode again afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class _Tape(fx.Interpreter):
    """Runs a graph, keeps the value of every node, and can push tangents through it afterwards."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph, garbage_collect_values=False)
        self._values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self._values[n] = value = super().run_node(n)
        return value

    @torch.no_grad()
    def push(self, tangents: Sequence[Tensor]) -> Tensor:
        """The tangent of the output when the first placeholders move along `tangents` and all else stands still."""
        nodes = list(self.graph.nodes)
        moving: dict[fx.Node, Any] = dict(zip(nodes, tangents, strict=False))
        for node in nodes:
            if node.op == "call_function" and any(moving.get(n) is not None for n in node.all_input_nodes):
                moving[node] = self._tangent(node, moving)
        return moving[nodes[-1].args[0]]  # type: ignore[no-any-return]

    def _tangent(self, node: fx.Node, moving: dict[fx.Node, Any]) -> Any:
        """How the node's value moves: a tensor, or a tuple (with None for what cannot move) for several results."""
        if node.target is operator.getitem:
            source, index = node.args
            return moving[source][index]  # type: ignore[index]
        if node.target is _aten.max_pool2d_with_indices.default:
            return _gather(moving[node.all_input_nodes[0]], self._values[node][1]), None
        if node.target in _BILINEAR:
            tangents = [moving.get(a) if isinstance(a, fx.Node) else None for a in node.args]
            return _product_rule(node.target, map_arg(node.args, self._values.get), tangents, *_BILINEAR[node.target])
        with forward_ad.dual_level():
            return _tangent_of(node.target(*map_arg(node.args, lambda n: self._dual(n, moving)), **node.kwargs))  # type: ignore[operator]

    def _dual(self, node: fx.Node, moving: dict[fx.Node, Any]) -> Any:
        still = moving.get(node) is None
        return self._values[node] if still else forward_ad.make_dual(self._values[node], moving[node])


def _tangent_of(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_tangent_of, value))
    return forward_ad.unpack_dual(value).tangent if value.is_floating_point() else None


_aten = torch.ops.aten
_BILINEAR: dict[Any, tuple[tuple[int, int], int | None]] = {  # positions of the two factors and of the summand
    _aten.convolution.default: ((0, 1), 2),
    _aten.addmm.default: ((1, 2), 0),
    _aten.mm.default: ((0, 1), None),
    _aten.bmm.default: ((0, 1), None),
}


def _gather(tangent: Tensor, indices: Tensor) -> Tensor:
    """The tangents (..., H, W) at the pooled maxima, which the forward has already found."""
    return tangent.flatten(-2).gather(-1, indices.flatten(-2)).view_as(indices)


def _product_rule(op: Any, values: Any, tangents: Any, factors: tuple[int, int], summand: int | None) -> Tensor:
    """d(a b + c) = da b + a db + dc: forward differentiation would compute a b once more."""
    terms: list[Tensor] = []
    for i in factors:
        if tangents[i] is not None:
            args = list(values)
            args[i] = tangents[i]
            if summand is not None and values[summand] is not None:
                dc = tangents[summand]
                args[summand] = torch.zeros_like(values[summand]) if terms or dc is None else dc
            terms.append(op(*args))
    return sum(terms[1:], terms[0])
