"""The page at `/`: one document without outside parts. It holds no data; it asks with the reader's key."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

__all__ = ["document"]


@cache
def document() -> tuple[bytes, dict[str, str]]:
    """The page, and the headers that it is sent with: a browser runs nothing but the page's own script."""
    parts = {name: (files(__name__) / f"page.{kind}").read_text("utf-8") for name, kind in _PARTS.items()}
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src {_hash(parts['script'])}; style-src {_hash(parts['style'])}"
    )
    body = (files(__name__) / "page.html").read_text("utf-8")
    for name, text in parts.items():
        body = body.replace(f"{{{{{name}}}}}", text)
    headers = {
        "content-type": "text/html; charset=utf-8", "content-security-policy": policy, "cache-control": "no-store",
        "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
    }  # fmt: skip
    return body.encode(), headers


_PARTS = {"style": "css", "script": "js"}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
