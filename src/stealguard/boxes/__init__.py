"""Black boxes, and the wrappers that meter and restrict them."""

from __future__ import annotations

from stealguard.boxes.base import Boxed, Labels, Metered, Rewritten

__all__ = ["Boxed", "Labels", "Metered", "Rewritten"]
