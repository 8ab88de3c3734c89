"""The frozen surrogate that stands for a clone, and InI's gradient terms in exact first-order form.

The gradient that a clone gets from an answer is linear in a known vector: with J the Jacobian of the surrogate's logits
in its parameters, d/dt D = J^T c, where c follows from the victim's answer in closed form. So each term below is a
scalar whose derivative with respect to the victim's logits takes two vector-Jacobian products and one Jacobian-vector
product of the surrogate; no gradient is differentiated. (Guo et al., ACM MM 2023, equations of isolation and
induction; `reading="paper"` takes the clone's loss D = KL(p || q), `"official"` the authors' program, which computes
KL(q || p).)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.backends import cudnn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from stealguard.defenses.base import evaluating
from stealguard.devices import switched, without_tf32
from stealguard.errors import Invalid, require
from stealguard.seeds import seeded
from stealguard.training.losses import in_layout_of, inner, known, mean_abs, norm
from stealguard.training.ranks import present

Reading = Literal["paper", "official"]
READINGS = get_args(Reading)
Layers = Literal["all", "head"]


def isolation(logits: Tensor, surrogate: nn.Module, x: Tensor, y: Tensor, reading: Reading = "official") -> Tensor:
    """Cosine between the gradient that a clone gets from the victim's answers and the one that the true labels give.

    Args:
        logits: the victim's on `x`, (B, K).
        surrogate: any frozen module from `x` to logits (B, K); it is read in evaluation mode.
        x: task inputs, (B, ...).
        y: their labels, (B,).
        reading: which way round the clone's divergence is taken.

    Returns:
        A scalar in [-1, 1], differentiable with respect to `logits` only.

    Raises:
        Invalid: the surrogate cannot be differentiated.
    """
    return isolation_at(logits, Linearization(surrogate, x), y, reading)


def isolation_at(logits: Tensor, surrogate: Linear, y: Tensor, reading: Reading = "official") -> Tensor:
    """`isolation` for a surrogate that is already linearized at the task inputs."""
    learned = Taught(logits, surrogate.logits, reading)
    g1, g2 = surrogate.vjp(learned.cotangent), surrogate.vjp(Taught.by_labels(y, surrogate.logits))
    with _unrounded(surrogate.logits):
        n1, n2 = norm(g1), norm(g2)
        cosine = inner(g1, g2) / (n1 * n2)
        u = [(b / n2 - cosine * a / n1) / n1 for a, b in zip(g1, g2, strict=True)]
        del g1, g2
    return known(cosine, [logits], [learned.pullback(surrogate.jvp(u))])


def magnitude(logits: Tensor, surrogate: nn.Module, z: Tensor, reading: Reading = "official") -> Tensor:
    """Mean absolute entry of the gradient that a clone gets from the victim's answers on outliers `z`, (B, ...).

    Args, Returns and Raises as for `isolation`; the scalar is at least 0.
    """
    return magnitude_at(logits, Linearization(surrogate, z), reading)


def magnitude_at(logits: Tensor, surrogate: Linear, reading: Reading = "official") -> Tensor:
    """`magnitude` for a surrogate that is already linearized at the outliers."""
    learned = Taught(logits, surrogate.logits, reading)
    g = surrogate.vjp(learned.cotangent)
    mean, size = mean_abs(g), sum(t.numel() for t in g)
    u = [t.sign() / size for t in g]
    del g
    return known(mean, [logits], [learned.pullback(surrogate.jvp(u))])


class Taught:
    """What a clone is taught by the victim's answers: the gradient of D in the surrogate's logits, and its derivative.

    `cotangent` is c = dD/ds, (B, K). `pullback(w)` is the gradient of <c, w> with respect to the victim's logits.
    """

    def __init__(self, logits: Tensor, surrogate_logits: Tensor, reading: Reading):
        require(reading in READINGS, "reading", f"one of {', '.join(READINGS)}", f"`{reading}`")
        log_q = F.log_softmax(surrogate_logits, dim=1)
        log_p = F.log_softmax(logits.detach().to(log_q.dtype), dim=1)
        self.reading, self.p, self.q = reading, log_p.exp(), log_q.exp()
        self.cotangent = (self.q - self.p if reading == "paper" else _softmax_jvp(self.q, log_q - log_p)) / len(log_p)

    @staticmethod
    def by_labels(y: Tensor, surrogate_logits: Tensor) -> Tensor:
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


class Linear(Protocol):
    """A frozen module at some inputs: its logits (B, K), and products with its Jacobian J in weights of its own.

    `jvp` comes last: it frees what only `vjp` reads.
    """

    logits: Tensor

    def vjp(self, c: Tensor) -> list[Tensor]:
        """J^T c for a cotangent (B, K): one tensor a weight."""

    def jvp(self, u: Sequence[Tensor]) -> Tensor:
        """J u, (B, K), for a tangent of one tensor a weight."""


class LastLayer:
    """A frozen module at `x`, (B, ...), and its Jacobian in the weights of its last layer alone, in closed form.

    With logits s = W h + b, J^T c is (c^T h, sum c) and J (U, r) is U h + r: the features h, (B, D), are all that is
    kept, and no product takes a pass through the module.

    Raises:
        Invalid: the logits are not what an `nn.Linear` of the module gives, which is called once.
    """

    def __init__(self, module: nn.Module, x: Tensor):
        with torch.no_grad(), _exactly(x), evaluating(module):
            mine = x.detach().clone()  # a module may change its input in place
            self._layer, self._features, self.logits = _last_layer(module, mine)

    def vjp(self, c: Tensor) -> list[Tensor]:
        with _unrounded(c):
            weight = c.T @ self._features
            return [weight] if self._layer.bias is None else [weight, c.sum(dim=0)]

    def jvp(self, u: Sequence[Tensor]) -> Tensor:
        with _unrounded(self.logits):
            return F.linear(self._features, *u)


class _Passed(NamedTuple):
    """A call of a linear layer: what it read and gave, and the versions of both, which operations in place change."""

    layer: nn.Linear
    read: Tensor
    gave: Tensor
    versions: tuple[int, int]


def _last_layer(module: nn.Module, x: Tensor) -> tuple[nn.Linear, Tensor, Tensor]:
    """The linear layer whose output the module's logits are, the features (B, D) that it reads, and the logits."""
    passed: list[_Passed] = []

    def note(layer: nn.Linear, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], gave: Tensor) -> None:
        read = args[0] if args else kwargs["input"]
        passed.append(_Passed(layer, read, gave, (read._version, gave._version)))

    layers = [part for part in module.modules() if type(part).forward is nn.Linear.forward]
    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        logits = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    last = next((one for one in reversed(passed) if one.gave is logits), None)
    calls = sum(last is not None and one.layer is last.layer for one in passed)
    if last is None or calls > 1 or (last.read._version, last.gave._version) != last.versions:
        rule = "a module that ends with an `nn.Linear`, called once, whose output is not changed in place"
        raise Invalid("surrogate", rule, f"`{type(module).__name__}`")
    return last.layer, last.read, last.gave


class Linearization:
    """A frozen module at `x`, (B, ...): its logits (B, K), and products with its Jacobian in the parameters.

    Runs as a traced graph of elementary operations where that gives the module's own derivatives, which is checked
    once for each shape of `x`, and else as the module itself (slower). Always in the precision of the weights. Where
    several processes train together, each computes its share of the rows.

    Raises:
        Invalid: the module cannot be differentiated; the error names what.
    """

    def __init__(self, module: nn.Module, x: Tensor):
        with _exactly(x), evaluating(module):
            self._share = present().share(len(x))
            mine = self._share.take(x.detach()).clone()  # a module may change its input in place
            self._products = _products(module, mine)
        self._like = x
        self.logits = self._share.join(self._products.logits.detach())

    def vjp(self, c: Tensor) -> list[Tensor]:
        """J^T c: one tensor a parameter."""
        with _exactly(self._like):
            return self._share.sum(self._products.vjp(self._share.take(c)))

    def jvp(self, u: Sequence[Tensor]) -> Tensor:
        """J u, (B, K), for a tangent of one tensor a parameter."""
        with _exactly(self._like):
            return self._share.join(self._products.jvp(u))


LAYERS: dict[str, Callable[[nn.Module, Tensor], Linear]] = {"all": Linearization, "head": LastLayer}
"""The weights of the surrogate that gradients are taken in, and what computes them."""


def _unrounded(x: Tensor) -> torch.autocast:
    """Without autocast, under which these gradients are off by 13 to 28 %."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def _exactly(x: Tensor) -> Iterator[None]:
    """As `_unrounded`, and without the fused attention kernels, which can be differentiated only once."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _unrounded(x), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Products:
    """Logits (B, K) that autograd can differentiate by the weights, until a Jacobian-vector product is computed."""

    logits: Tensor
    _weights: list[Tensor]

    def vjp(self, c: Tensor) -> list[Tensor]:
        wanted = self._weights
        return list(torch.autograd.grad(self.logits, wanted, c, retain_graph=True, materialize_grads=True))

    def jvp(self, u: Sequence[Tensor]) -> Tensor:
        self.logits = self.logits.detach()  # nothing else holds what backward passes read
        return self._push(u)

    def _push(self, u: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError


class _Direct(_Products):
    """By torch's own rules, with a forward and a backward pass more for every Jacobian-vector product."""

    def __init__(self, module: nn.Module, x: Tensor):
        self._forward, self._x = _functional(module), x
        self._weights = _leaves(module)
        self._module, self._buffers = module, [b.detach().clone() for b in module.buffers()]
        with torch.enable_grad():
            self.logits = self._run(*self._weights)

    def _run(self, *weights: Tensor) -> Tensor:
        with evaluating(self._module):
            return self._forward(*weights, *(b.clone() for b in self._buffers), self._x.clone())

    def _push(self, u: Sequence[Tensor]) -> Tensor:
        try:
            return self._twice(u)
        except (RuntimeError, NotImplementedError):  # an operation that torch can differentiate only once, or forwards
            weights = tuple(w.detach() for w in self._weights)
            return torch.func.jvp(self._run, weights, tuple(u))[1].detach()

    def _twice(self, u: Sequence[Tensor]) -> Tensor:
        """J u as the derivative of <J^T c, u> by c, which does as the module says where it stops gradients."""
        # The recurrent nets of cuDNN can be differentiated only once.
        recurrent = any(isinstance(part, nn.RNNBase) for part in self._module.modules())
        with torch.enable_grad(), switched(cudnn, "enabled", cudnn.enabled and not recurrent):
            c = torch.zeros_like(self.logits, requires_grad=True)
            logits = self._run(*self._weights)
            pulled = torch.autograd.grad(logits, self._weights, c, create_graph=True, materialize_grads=True)
            along = torch.stack([(g * t).sum() for g, t in zip(pulled, u, strict=True)]).sum()
            return torch.autograd.grad(along, c)[0]


class _Traced(_Products):
    """By a traced graph that keeps every intermediate value, so that no product computes them again."""

    def __init__(self, graph: fx.GraphModule, module: nn.Module, x: Tensor):
        self._weights, self._tape = _leaves(module), _Tape(graph)
        with torch.enable_grad():
            self.logits = self._tape.record(*self._weights, *module.buffers(), x)

    def _push(self, u: Sequence[Tensor]) -> Tensor:
        # Convolutions take the layout of their weights. In torch's default one, few channels are padded in a copy.
        return self._tape.push(list(map(in_layout_of, self._weights, u)))


_graphs: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], fx.GraphModule | None]] = WeakKeyDictionary()


def _products(module: nn.Module, x: Tensor) -> _Products:
    """A traced graph's products where they are right, which is found once for each shape of x, else the module's."""
    known = _graphs.setdefault(module, {})
    key = (x.shape, x.dtype, x.device)
    if key not in known:
        with without_tf32():  # whose rounding is larger than what the check allows
            known[key] = _checked_graph(module, x)
    graph = known[key]
    return _Direct(module, x) if graph is None else _Traced(graph, module, x)


def _leaves(module: nn.Module) -> list[Tensor]:
    return [p.detach().requires_grad_() for p in module.parameters()]


def _functional(module: nn.Module) -> Callable[..., Tensor]:
    """The module as a function (parameters, buffers, x) -> logits."""
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]

    def forward(*tensors: Tensor) -> Tensor:
        *state, x = tensors
        return functional_call(module, dict(zip(names, state, strict=True)), (x,))  # type: ignore[no-any-return]

    return forward


def _trace(module: nn.Module, x: Tensor) -> fx.GraphModule:
    """The module as elementary operations (parameters, buffers, x) -> logits, none of which works in place."""
    state = [t.detach() for t in (*module.parameters(), *module.buffers())]
    with torch.no_grad():
        graph = make_fx(functionalize(_functional(module)))(*state, x)
        if any(n.op == "call_function" and _in_place(n.target) for n in graph.graph.nodes):
            graph = make_fx(functionalize(graph))(*state, x)  # operations that the first pass took apart, as LSTM
        return graph


def _in_place(operation: Any) -> bool:
    return isinstance(operation, torch._ops.OpOverload) and operation._schema.is_mutable


def _checked_graph(module: nn.Module, x: Tensor) -> fx.GraphModule | None:
    """The module's graph, or None where it does not have the module's own logits and derivatives.

    Raises:
        Invalid: torch cannot differentiate the module either, or it answers differently when asked again.
    """
    rule = "a module with parameters, all of them real floating-point numbers"
    require(any(True for _ in module.parameters()), "surrogate", rule, f"`{type(module).__name__}` without any")
    for name, p in module.named_parameters():
        require(p.is_floating_point(), "surrogate", rule, f"`{name}` of {p.dtype}")
    name = f"`{type(module).__name__}`"
    direct = _Direct(module, x)
    u, c = _random_directions(direct)
    try:
        right = _derivatives(direct, u, c)
    except (RuntimeError, NotImplementedError) as e:
        reason = str(e).strip().splitlines()[0]
        raise Invalid("surrogate", "a module that can be differentiated", f"{name} ({reason})") from e
    direct = _Direct(module, x)
    same = _close(_derivatives(direct, u, c), right)
    require(same, "surrogate", "a module that gives the same logits when asked again", name)
    consistent = _transposed(right, u, c)
    require(
        consistent, "surrogate", "a module that can be differentiated", f"{name} (J u and J^T c contradict each other)"
    )
    del direct  # what it keeps for its derivatives takes as much memory as the graph's
    try:
        graph = _trace(module, x.clone())
        return graph if _close(_derivatives(_Traced(graph, module, x.clone()), u, c), right) else None
    except Exception:  # tracing and rules for single operations fail in many ways, and the module itself is at hand
        return None


def _derivatives(at: _Products, u: list[Tensor], c: Tensor) -> list[Tensor]:
    """Logits, J u and J^T c: what two ways to compute the same products must agree in."""
    backward = at.vjp(c)
    return [at.logits.detach(), at.jvp(u), *backward]


def _random_directions(at: _Products) -> tuple[list[Tensor], Tensor]:
    """A tangent of the weights and a cotangent of the logits, the same in every run."""
    with seeded(0):
        u = [torch.randn(w.shape, dtype=w.dtype).to(w) for w in at._weights]
        return u, torch.randn(at.logits.shape, dtype=at.logits.dtype).to(at.logits)


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether logits, J u and J^T c agree up to rounding, each in its norm."""

    def near(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
        return bool(norm([i - j for i, j in zip(a, b, strict=True)]) <= _tolerance(b[0]) * norm(b))

    return all(near(found[part], expected[part]) for part in (slice(0, 1), slice(1, 2), slice(2, None)))


def _transposed(derivatives: Sequence[Tensor], u: Sequence[Tensor], c: Tensor) -> bool:
    """Whether <c, J u> = <J^T c, u> up to rounding."""
    _, forward, *backward = derivatives
    error = inner([c], [forward]) - inner(backward, u)
    return bool(error.abs() <= _tolerance(c) * norm([c]) * norm([forward]))


def _tolerance(like: Tensor) -> float:
    return 1e-6 if like.dtype == torch.float64 else 1e-3


class _Tape(fx.Interpreter):
    """Runs a graph, keeps the values that tangents are computed from, and can push tangents through it afterwards."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self._values: dict[fx.Node, Any] = {}

    def record(self, *given: Tensor) -> Tensor:
        logits: Tensor = self.run(*given)
        self.env.clear()
        self.args_iter = iter(())  # the interpreter holds all that it was given
        return logits

    def run_node(self, n: fx.Node) -> Any:
        value, sources = super().run_node(n), {source: self.env[source] for source in n.all_input_nodes}
        if any(map(_moves, sources.values())) and n.target is not operator.getitem:
            read = {n: _BY_RESULT[n.target].kept(value)} if n.target in _BY_RESULT else sources
            self._values |= {node: map_aggregate(found, _still) for node, found in read.items()}
        return value

    @torch.no_grad()
    def push(self, tangents: Sequence[Tensor]) -> Tensor:
        """The tangent of the output when the first placeholders move along `tangents` and all else stands still."""
        nodes = list(self.graph.nodes)
        moving: dict[fx.Node, Any] = dict(zip(nodes, tangents, strict=False))
        for node in nodes:
            if node.op == "call_function" and any(moving.get(n) is not None for n in node.all_input_nodes):
                moving[node] = self._tangent(node, moving)
            if node.op != "output":
                for done in self.user_to_last_uses.get(node, ()):  # as many tangents as values would else be kept
                    moving.pop(done, None)
        return moving[nodes[-1].args[0]]  # type: ignore[no-any-return]

    def _tangent(self, node: fx.Node, moving: dict[fx.Node, Any]) -> Any:
        """How the node's value moves: a tensor, or a tuple (with None for what cannot move) for several results."""
        if node.target is operator.getitem:
            source, index = node.args
            return moving[source][index]  # type: ignore[index]
        if node.target in _BY_RESULT:
            return _BY_RESULT[node.target].tangent(moving[node.all_input_nodes[0]], self._values[node])
        tangents = [moving.get(a) if isinstance(a, fx.Node) else None for a in node.args]
        factors, summand = _BILINEAR.get(node.target, ((), None))
        if any(tangents[i] is not None for i in factors):
            op = partial(node.target, **node.kwargs)  # type: ignore[arg-type,operator,misc]
            return _product_rule(op, map_arg(node.args, self._values.get), tangents, factors, summand)
        with forward_ad.dual_level():
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: self._dual(n, moving))
            return _tangent_of(node.target(*args, **kwargs))  # type: ignore[operator]

    def _dual(self, node: fx.Node, moving: dict[fx.Node, Any]) -> Any:
        still = moving.get(node) is None
        return self._values[node] if still else forward_ad.make_dual(self._values[node], moving[node])


def _tangent_of(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_tangent_of, value))
    moves = value.is_floating_point() or value.is_complex()
    return forward_ad.unpack_dual(value).tangent if moves else None


_aten = torch.ops.aten
_BILINEAR: dict[Any, tuple[tuple[int, ...], int | None]] = {  # positions of the two factors and of the summand
    _aten.convolution.default: ((0, 1), 2),
    _aten.addmm.default: ((1, 2), 0),
    _aten.mm.default: ((0, 1), None),
    _aten.bmm.default: ((0, 1), None),
}


def _rectified(tangent: Tensor, result: Tensor) -> Tensor:
    return _aten.threshold_backward(tangent, result, 0)  # type: ignore[no-any-return]


def _pooled(tangent: Tensor, indices: Tensor) -> tuple[Tensor, None]:
    """The tangents (..., H, W) at the pooled maxima, which the forward has already found."""
    return tangent.flatten(-2).gather(-1, indices.flatten(-2)).view_as(indices), None


class _ByResult(NamedTuple):
    """What is kept of an operation's result, and the tangent that follows from it, so that its input is not kept."""

    kept: Callable[[Any], Tensor]
    tangent: Callable[[Tensor, Tensor], Any]


_BY_RESULT = {
    _aten.relu.default: _ByResult(lambda result: result, _rectified),
    _aten.max_pool2d_with_indices.default: _ByResult(operator.itemgetter(1), _pooled),
}


def _still(value: Any) -> Any:
    """A tensor without the graph that gave it, or anything else as it is."""
    return value.detach() if isinstance(value, Tensor) else value


def _moves(value: Any) -> bool:
    """Whether a node's value depends on the weights."""
    return any(map(_moves, value)) if isinstance(value, tuple | list) else getattr(value, "requires_grad", False)


def _product_rule(op: Any, values: Any, tangents: Any, factors: tuple[int, ...], summand: int | None) -> Tensor:
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
