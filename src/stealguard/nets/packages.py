"""Nets by name from packages that many have: timm and torchvision, loaded only where they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stealguard.errors import Invalid, StealguardError, nearest, one_line, require


def _timm(package: Any, name: str, like: Tensor, classes: int) -> nn.Module:
    known = package.list_models()
    require(name in known, "net", "`timm:` and the name of a model", f"`timm:{name}`{nearest(name, known)}")
    fixed = package.get_pretrained_cfg(name).fixed_input_size  # as that of plain transformers is
    size = {"img_size": tuple(like.shape[2:])} if fixed else {}
    return package.create_model(name, pretrained=False, num_classes=classes, in_chans=like.shape[1], **size)


def _torchvision(package: Any, name: str, like: Tensor, classes: int) -> nn.Module:
    known = package.models.list_models(package.models)
    require(
        name in known,
        "net",
        "`torchvision:` and the name of a classifier",
        f"`torchvision:{name}`{nearest(name, known)}",
    )
    size = {"image_size": like.shape[2]} if name.startswith("vit_") else {}
    return package.models.get_model(name, weights=None, num_classes=classes, **size)


PACKAGES: dict[str, Callable[[Any, str, Tensor, int], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}


def offered(net: str) -> bool:
    """Whether a net's name is one of a package: `timm:NAME` or `torchvision:NAME`."""
    return net.partition(":")[0] in PACKAGES


def from_package(net: str, like: Tensor, classes: int) -> nn.Module:
    """The net `timm:NAME` or `torchvision:NAME` for inputs like `like` (N, C, H, W), with weights drawn at random.

    Raises:
        StealguardError: the package cannot be imported; names the extra that has it.
        Invalid: it has no such net, or the net cannot be built for such inputs.
    """
    package, _, name = net.partition(":")
    require(like.dim() == 4, "net", "one for such inputs", f"`{net}`, which takes images, for {tuple(like.shape[1:])}")
    try:
        module = importlib.import_module(package)
    except (ImportError, RuntimeError) as e:  # RuntimeError: torchvision that was built for another torch
        remedy = f"pip install 'stealguard[{package}]' ({one_line(e, 200)})"
        raise StealguardError(f"`{net}` needs {package}, which cannot be imported: {remedy}.") from e
    try:
        return PACKAGES[package](module, name, like, classes)
    except Invalid:
        raise
    except Exception as e:  # models have rules of their own
        found = f"`{net}` ({type(e).__name__}: {one_line(e, 200)})"
        raise Invalid("net", f"a net that can be built for inputs {tuple(like.shape[1:])}", found) from e
