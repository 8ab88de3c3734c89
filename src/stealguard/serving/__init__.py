"""The server: it answers over HTTP with exactly what was audited.

What is here needs neither torch nor a package of the extra `serve`; `stealguard.serving.run` has the server itself.
"""

from __future__ import annotations

from stealguard.serving.keys import Key, Restriction, new_key
from stealguard.serving.ledger import Ledger, open_keys, open_ledger
from stealguard.serving.limits import Limits

__all__ = ["Key", "Ledger", "Limits", "Restriction", "new_key", "open_keys", "open_ledger"]
