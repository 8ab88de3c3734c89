"""`stealguard keys`: who may ask a server, and what was asked."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cyclopts import App

from stealguard.cli.options import Json, Many, check_labels_alone
from stealguard.cli.printing import print_table
from stealguard.errors import require

if TYPE_CHECKING:
    from stealguard.serving.keys import Key
    from stealguard.serving.ledger import Keys

LEDGER = "stealguard-ledger.sqlite"

app = App(name="keys", help="Give accounts keys to a server, take them back, and see what was asked.")


@app.command
def add(
    account: str,
    *,
    budget: int | None = None,
    rate: float | None = None,
    labels: bool = False,
    top_k: int | None = None,
    digits: int | None = None,
    models: Many = None,
    owner: bool = False,
    ledger: str = LEDGER,
    json_: Json = False,
) -> None:
    """Make a key for an account, and print its token, which cannot be shown again.

    Parameters
    ----------
    account
        The account's name; an account may have several keys, which share its budget and its memory.
    budget
        Inputs that the account may have answered by one net, in all; no limit unless told.
    rate
        Inputs a second, on each server; no limit unless told.
    labels
        Answer with the most probable class only.
    top_k
        Classes that keep a probability. It changes nothing where a model has no more classes.
    digits
        Decimal digits of a probability.
    models
        Names of the models that the key may ask; all unless told.
    owner
        Let the key see what the server's owner sees.
    ledger
        The ledger of the server: an SQLite file, which is made if need be, or redis://HOST:PORT/NUMBER.
    json_
        Print an object with the key's id, its terms and its token as JSON.
    """
    from stealguard.serving.keys import Restriction, new_key

    check_labels_alone(labels, top_k, digits)
    restriction = Restriction(labels, top_k, digits)
    key, token = new_key(account, restriction, budget=budget, rate=rate, models=tuple(models or ()), owner=owner)
    with _opened(ledger, create=True) as keys:
        keys.add_key(key)
    print(json.dumps({**_public(key), "token": token}) if json_ else token)
    print(f"Key {key.id} of account {account}: {_terms(key)}. The token is not shown again.", file=sys.stderr)


@app.command(name="list")
def list_(*, ledger: str = LEDGER, json_: Json = False) -> None:
    """All keys, and the inputs that are counted of each account; a server's lease is counted while it lasts.

    Parameters
    ----------
    ledger
        The ledger of the server: an SQLite file or redis://HOST:PORT/NUMBER.
    json_
        Print a list of objects as JSON.
    """
    with _opened(ledger) as keys:
        found, usage = keys.keys(), keys.usage()
    if json_:
        print(json.dumps([{**_public(key), "counted": usage.get(key.account, {})} for key in found]))
    else:
        rows = [(key.id, key.account, _terms(key), _counts(usage.get(key.account, {}))) for key in found]
        print_table(("key", "account", "terms", "counted by weights"), rows)


@app.command
def revoke(keys: list[str], /, *, ledger: str = LEDGER) -> None:
    """Put keys out of force; servers notice within a second.

    Parameters
    ----------
    keys
        The keys' ids.
    ledger
        The ledger of the server: an SQLite file or redis://HOST:PORT/NUMBER.
    """
    with _opened(ledger) as opened:
        for key_id in keys:
            print(f"Key {key_id} of account {opened.revoke(key_id).account} is revoked.")


@app.command
def history(account: str, *, days: float = 90.0, ledger: str = LEDGER, json_: Json = False) -> None:
    """What an account asked, and what became of it, by the second.

    Parameters
    ----------
    account
        The account's name.
    days
        How far back.
    ledger
        The ledger of the server: an SQLite file or redis://HOST:PORT/NUMBER.
    json_
        Print a list of objects as JSON.
    """
    require(days > 0, "days", "above 0", days)
    with _opened(ledger) as keys:
        events = keys.history(account, time.time() - days * 86_400)
        found = keys.keys()
        known = bool(events) or account in {key.account for key in found} or bool(keys.history(account))
    require(known, "account", "one that has a key or a history in the ledger", f"`{account}`")
    if json_:
        print(json.dumps([event._asdict() for event in events]))
    else:
        headings = "time", "model", "key", "requests", "inputs", "outcome"
        print_table(
            headings, [(_when(e.at), e.model, e.key, f"{e.requests:,}", f"{e.rows:,}", e.outcome) for e in events]
        )


@contextmanager
def _opened(ledger: str, *, create: bool = False) -> Iterator[Keys]:
    from stealguard.serving.ledger import open_keys

    keys = open_keys(ledger, create=create)
    try:
        yield keys
    finally:
        keys.close()


def _terms(key: Key) -> str:
    """What the key may have, in words."""
    budget = "no budget" if key.budget is None else f"a budget of {key.budget:,}"
    rate = [] if key.rate is None else [f"{key.rate:g} a second"]
    models = [f"of {', '.join(key.models)} only"] if key.models else []
    revoked = [] if key.revoked is None else [f"revoked on {_when(key.revoked)}"]
    return ", ".join([str(key.restriction), budget, *rate, *models, *["owner"] * key.owner, *revoked])


def _counts(usage: Mapping[str, int]) -> str:
    return ", ".join(f"{weights[:8]}: {n:,}" for weights, n in sorted(usage.items()))


def _public(key: Key) -> dict[str, Any]:
    """A key without the hash of its token."""
    return {name: value for name, value in asdict(key).items() if name != "sha256"}


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
