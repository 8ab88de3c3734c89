"""Which weights of the user's own net training changes, where some are frozen (`requires_grad` is false)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from stealguard.defenses.base import Cost, Defended
from stealguard.errors import counted, require


class FrozenNet(UserWarning):
    """Training changes no weight of the net that is protected."""


def frozen(model: Defended) -> dict[str, int] | None:
    """How many numbers of the net's weights are frozen, of how many, and how many are trained beside it.

    Returns:
        As JSON data for a recipe; None where nothing of the net is frozen.

    Raises:
        Invalid: nothing at all can be trained.
    """
    own = {id(weight) for weight in model.net.parameters()}
    total, trained = _size(model.net.parameters(), held=True), _size(model.net.parameters())
    beside = _size(weight for weight in model.parameters() if id(weight) not in own)
    rule = "a net with weights that can be trained (`requires_grad_()`), or released as it is (`epochs` is 0)"
    require(trained + beside > 0, "net", rule, f"{counted(total, 'weight')}, all of them frozen")
    return {"weights": total - trained, "of": total, "beside": beside} if trained < total else None


def is_frozen(found: Mapping[str, int] | None) -> bool:
    """Whether what `frozen` found is that no weight of the net can change."""
    return found is not None and found["weights"] == found["of"]


def told(found: Mapping[str, int], cost: Cost, net: nn.Module) -> str:
    """What is trained, in one line.

    Args:
        found: by `frozen`.
        cost: what the defense says that it trains beside the net.
        net: the user's own.
    """
    if not is_frozen(found):
        return f"{found['weights']:,} of the net's {counted(found['of'], 'weight')} are frozen, and stay as they are."
    running = any(getattr(part, "track_running_stats", False) for part in net.modules())
    kept = ", but for the running statistics of its batch normalization" * running
    what = f" ({cost.trained})" if cost.trained else ""
    return (
        f"The net is frozen: training changes none of its {counted(found['of'], 'weight')}{kept}. It changes "
        f"{counted(found['beside'], 'weight')} beside it{what}. Call `requires_grad_()` on the net to train it, too."
    )


def _size(weights: Iterable[nn.Parameter], *, held: bool = False) -> int:
    """How many numbers are trained, or `held` in all."""
    return sum(weight.numel() for weight in weights if held or weight.requires_grad)
