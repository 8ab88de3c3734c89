"""Which pixels a net's answer depends on, and images without them: pure functions of batches (N, C, H, W) in [0, 1].

Random choices come from torch's global generator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def class_activation(net: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """How much each pixel counts for a class, (N, H, W), at least 0: Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1-2).

    S = relu(sum_k a_k A_k), with A the last feature map of more than one pixel that a convolution or a later module
    returns, and a_k the mean over it of the gradient dF_c/dA_k of the class's logit; S is enlarged to the image
    bilinearly. A net without a convolution has no map but the image, for which averaged gradients are useless; there
    S = relu(sum_k x_k dF_c/dx_k), each pixel's part of the logit if F is linear.

    Args:
        net: in evaluation mode, from images to logits.
        x: images (N, C, H, W).
        classes: of each image, (N,).
    """
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        extended = isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1
        if extended and (maps or isinstance(module, nn.Conv2d)):
            maps[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in net.modules()]
    x = x.detach().requires_grad_()
    try:
        with torch.enable_grad():
            score = net(x).gather(1, classes[:, None]).sum()
            features = maps[0] if maps else x
            (slope,) = torch.autograd.grad(score, features)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps:
        return (slope * x.detach()).sum(dim=1).relu()
    seen = (slope.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1, keepdim=True).relu()
    return F.interpolate(seen, size=x.shape[2:], mode="bilinear", align_corners=False).squeeze(1)


def draw_pixels(weights: Tensor) -> Tensor:
    """One pixel of each image, (N,), numbered row by row, drawn with weights (N, H, W); uniformly where all are 0."""
    flat = weights.flatten(1)
    flat = torch.where(flat.sum(dim=1, keepdim=True) > 0, flat, torch.ones_like(flat))
    return torch.multinomial(flat, 1).squeeze(1)


def patches(centers: Tensor, size: tuple[int, int], area: tuple[float, float], aspect: float) -> Tensor:
    """Rectangles around given pixels as masks (N, H, W), as in random erasing (Zhong et al., AAAI 2020).

    A rectangle's share of the image is uniform in `area`, and height / width is uniform in [aspect, 1 / aspect]. A
    rectangle that would leave the image is moved back in, or cut if it is too long; it always covers its pixel.

    Args:
        centers: pixels (N,), numbered row by row.
        size: H and W.
    """
    height, width = size
    n, device = len(centers), centers.device
    share = area[0] + (area[1] - area[0]) * torch.rand(n, device=device)
    ratio = aspect + (1 / aspect - aspect) * torch.rand(n, device=device)
    whole = share * height * width
    rows = _span((whole * ratio).sqrt(), centers // width, height)
    columns = _span((whole / ratio).sqrt(), centers % width, width)
    return rows[:, :, None] & columns[:, None, :]


def _span(length: Tensor, center: Tensor, size: int) -> Tensor:
    """Which of `size` places each interval of a rounded length, (N,), about its center, (N,), covers: (N, size)."""
    length = length.round().long().clamp(1, size)
    start = (center - length // 2).clamp_min(0).minimum(size - length)[:, None]
    place = torch.arange(size, device=center.device)
    return (place >= start) & (place < start + length[:, None])


def erase(x: Tensor, masks: Tensor, fill: Tensor) -> Tensor:
    """Images (N, C, H, W) with the masks' (N, H, W) pixels replaced by `fill`, that broadcasts to the images."""
    return torch.where(masks[:, None], fill, x)
