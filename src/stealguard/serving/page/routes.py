"""What the page at `/` asks: an account's budget, the facts of a model, and, for the owner, suspicion over time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from stealguard.serving.app import Failure, Reply, Request, Route
from stealguard.serving.keys import Restriction
from stealguard.serving.ledger import Ledger
from stealguard.serving.page import document
from stealguard.serving.service import Service

POINTS = 500  # of a curve, at most: the latest


def page_routes(services: Mapping[tuple[str, str], Service], ledger: Ledger | None) -> Iterable[Route]:
    """The routes of the page. The page itself needs no key, since it tells nothing; the others need one."""
    yield Route("GET", "/", _page, public=True)
    for (name, version), service in services.items():
        where = f"{name}/versions/{version}"
        yield Route("GET", f"/stealguard/account/{where}", partial(_account, service, ledger), name)
        yield Route("GET", f"/stealguard/card/{where}", partial(_card, service), name)
        yield Route("GET", f"/stealguard/suspicion/{where}", partial(_suspicion, service, ledger), name)


async def _page(request: Request) -> Reply:
    return Reply(200, *document())


async def _account(service: Service, ledger: Ledger | None, request: Request) -> Reply:
    """What the key's account has used of the model, and what its answers tell."""
    key = request.key
    told: Restriction = key.restriction.stricter(service.restriction)
    used = left = None
    if ledger is not None:
        used = await ledger.used(key.account, service.weights)
        left = await ledger.left(key, service.weights)
    return Reply.of({
        "account": key.account, "used": used, "left": left, "rate": key.rate, "owner": key.owner,
        "labels": told.labels, "top_k": told.top_k, "digits": told.digits,
    })  # fmt: skip


async def _card(service: Service, request: Request) -> Reply:
    return Reply.of(service.card())


async def _suspicion(service: Service, ledger: Ledger | None, request: Request) -> Reply:
    """For each account, what the guard held against it after its latest requests of this model."""
    if ledger is None or not request.key.owner:
        raise Failure(403, "Only an owner's key shows this.")
    curves = await asyncio.to_thread(_curves, ledger, service.spec.name)
    return Reply.of({"limit": service.suspicion_limit, "accounts": curves})


def _curves(ledger: Ledger, model: str) -> list[dict[str, Any]]:
    found = []
    for account in ledger.keys.usage():
        events = [event for event in ledger.keys.history(account) if event.model == model]
        points = [(event.at, event.suspicion) for event in events if event.suspicion is not None]
        if points:
            used = sum(event.rows for event in events if event.outcome == "answered")
            refused = any(event.outcome == "refused" for event in events)
            found.append({"account": account, "used": used, "refused": refused, "points": points[-POINTS:]})
    return sorted(found, key=_worst)


def _worst(entry: dict[str, Any]) -> tuple[bool, float]:
    """Accounts that were refused come first, then those of more suspicion."""
    return not entry["refused"], -entry["points"][-1][1]
