"""Several losses become one gradient. Each function writes `.grad` of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from stealguard.errors import StealguardError, require
from stealguard.training.losses import in_layout_of, known
from stealguard.training.ranks import ALONE, present
from stealguard.types import Batch


def total(losses: Sequence[Tensor], parameters: Iterable[nn.Parameter]) -> None:
    """The gradient of the sum."""
    wanted = list(parameters)
    _write(wanted, _gradient(sum(losses), wanted))  # type: ignore[arg-type]


def pcgrad(
    losses: Sequence[Tensor], parameters: Iterable[nn.Parameter], orders: Sequence[Sequence[int]] | None = None
) -> None:
    """Projected conflicting gradients, averaged (Yu et al., NeurIPS 2020, with the mean over losses that InI takes).

    Args:
        losses: K scalars.
        parameters: what they are differentiated by, `module.parameters()` for example.
        orders: K sequences over the losses' indices: in which order gradient i meets the others. Drawn from torch's
            global generator if left out.
    """
    if orders is None:
        drawn = _draw_orders(len(losses), losses[0].device)
    else:
        found = [list(order) for order in orders]
        ok = len(found) == len(losses) and all(0 <= j < len(losses) for order in found for j in order)
        ok = ok and len({len(order) for order in found}) == 1
        require(ok, "orders", f"{len(losses)} sequences of indices below {len(losses)}, all as long", found)
        drawn = torch.tensor(found, device=losses[0].device)
    _weigh(losses, parameters, lambda gram: _project(gram, drawn))


def upgrad(losses: Sequence[Tensor], parameters: Iterable[nn.Parameter]) -> None:
    """Unconflicting projection of gradients (Quinton & Rey 2024), by torchjd's quadratic program.

    Raises:
        StealguardError: torchjd is not installed.
    """
    try:
        from torchjd.aggregation import UPGradWeighting
    except ImportError as e:
        raise StealguardError("combine = upgrad needs torchjd: pip install 'stealguard[upgrad]'") from e
    _weigh(losses, parameters, lambda gram: UPGradWeighting()(gram.cpu()))


def settles(by: Sequence[nn.Parameter], batch: Batch) -> bool:
    """Whether gradients by these parameters alone tell all that the losses of a batch can be differentiated by.

    Not where gradients are off, where the batch itself follows from weights, or where a hook would act twice.
    """
    follows = any(part is not None and part.requires_grad for part in batch)
    return torch.is_grad_enabled() and bool(by) and not follows and not any(p._backward_hooks for p in by)


def settled(losses: Mapping[str, Tensor], by: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """The losses with their gradients by these parameters taken, so that nothing else of what gave them is kept."""
    found = {}
    for name, loss in losses.items():
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, by, retain_graph=True, materialize_grads=True)
        found[name] = known(loss.detach(), by, gradients)
    return found


COMBINES = {"total": total, "pcgrad": pcgrad, "upgrad": upgrad}


def _draw_orders(k: int, device: torch.device) -> Tensor:
    """K orders (K, K): on a processor one that is shuffled again for each loss, never reset, as the authors' program
    does; elsewhere drawn there, so that nothing waits and a CUDA graph draws them anew."""
    if device.type != "cpu":
        return torch.rand(k, k, device=device).argsort(dim=1)
    order, orders = torch.arange(k), []
    for _ in range(k):
        order = order[torch.randperm(k)]
        orders.append(order)
    return torch.stack(orders)


def _project(gram: Tensor, orders: Tensor) -> Tensor:
    """The K weights of the mean projected gradient, from the gradients' inner products (K, K) and orders (K, n)."""
    weights = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for j in orders.T:  # row i of the weights is gradient i, and meets gradient j[i] now
        conflict = (weights * gram[j]).sum(dim=1).clamp_max(0)
        weights = weights.scatter_add(1, j[:, None], -(conflict / gram.diagonal()[j].where(conflict < 0, 1))[:, None])
    return weights.mean(dim=0)


def _weigh(losses: Sequence[Tensor], parameters: Iterable[nn.Parameter], weighting: Callable[[Tensor], Tensor]) -> None:
    """Write the sum of the losses' gradients under the weights (K,) that `weighting` reads off their Gram matrix."""
    wanted = list(parameters)
    rows = [_gradient(loss, wanted, keep=True) for loss in losses]

    def columns() -> Iterator[Tensor]:  # (K, n) a parameter: copies, of which one at a time is kept
        return (torch.stack([g.reshape(-1) for g in gs]) for gs in zip(*rows, strict=True))

    gram = torch.stack([(c @ c.T).double() for c in columns()]).sum(dim=0)
    weights = weighting(gram)
    if present() is not ALONE:
        weights = present().told(weights.cpu())
    weights = weights.to(rows[0][0])
    _write(wanted, ((weights @ c).view_as(p) for p, c in zip(wanted, columns(), strict=True)))


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter], keep: bool = False) -> Sequence[Tensor]:
    """The loss's gradient, of the rows of all processes where several train together."""
    return present().mean(torch.autograd.grad(loss, parameters, retain_graph=keep, materialize_grads=True))


def _write(parameters: Sequence[nn.Parameter], gradients: Iterable[Tensor]) -> None:
    """Each gradient in the layout of its parameter, as fused optimizers ask for."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = in_layout_of(parameter, gradient)
