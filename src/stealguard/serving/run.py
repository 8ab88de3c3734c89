"""From settings to a running server."""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from stealguard.defenses.base import Defense
from stealguard.errors import StealguardError, counted, require
from stealguard.releases import load
from stealguard.releases.release import hash_of
from stealguard.serving.app import Application, Observer, Receive, Send, log_to
from stealguard.serving.config import Config
from stealguard.serving.engine import engine_of
from stealguard.serving.http import Server
from stealguard.serving.ledger import Ledger, open_keys, open_ledger, to_be_made
from stealguard.serving.metrics import CONTENT_TYPE, Metrics
from stealguard.serving.page.routes import page_routes
from stealguard.serving.service import Service

Services = Mapping[tuple[str, str], Service]


def serve(
    config: Config,
    *,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
) -> None:
    """Serve releases until SIGTERM or SIGINT; what was asked until then is still answered.

    Each request becomes one line of JSON on stdout, without inputs and keys; what else there is to say goes to stderr.

    Args:
        config: what is served, and how.
        net: the network that was protected, where it is the user's own and `config` names none for the release; see
            `stealguard.load`.
        defense: the class of the defense, likewise.

    Raises:
        StealguardError: a setting, a release or the ledger cannot be used.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s", force=True)
    torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        ledger = None if config.open else open_ledger(config.ledger)
        if ledger is not None:
            stack.callback(ledger.keys.close)
        server = server_of(config, services_of(config, ledger, net=net, defense=defense), ledger)
        server.run()


def check(config: Config, *, net: str | nn.Module | None = None, defense: str | type[Defense] | None = None) -> str:
    """Read everything that a server of these settings needs, and listen to nothing; what it would serve, in lines.

    Raises:
        StealguardError: a setting, a release or the ledger cannot be used.
    """
    services = services_of(config, None, net=net, defense=defense)
    lines = [
        f"{name} version {version}: {service.release.folder}, {service.engine.backend} on {service.engine.device} "
        f"({service.engine.why}), {service.restriction}"
        for (name, version), service in services.items()
    ]
    if config.open:
        return "\n".join([*lines, "open: requests need no key, and nothing is counted"])
    return "\n".join([*lines, _about(config.ledger)])


def _about(ledger: str) -> str:
    """What a server would find in the ledger, or that it would make the file."""
    nobody = "no request is answered before `stealguard keys add` makes a key"
    if to_be_made(ledger):
        return f"ledger {ledger}: the server makes this file, which is not there yet; {nobody}"
    known = open_keys(ledger, create=False)
    try:
        keys, name = known.keys(), known.name
    finally:
        known.close()
    valid = sum(key.revoked is None for key in keys)
    return f"ledger {name}: {counted(valid, 'key')} in force{'' if valid else f'; {nobody}'}"


def services_of(
    config: Config,
    ledger: Ledger | None,
    *,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
) -> Services:
    """The releases of these settings by name and version, ready to answer.

    Raises:
        StealguardError: a release cannot be read, or releases of the same weights would be served together.
        Invalid: `top_k` is no less than the number of a release's classes.
    """
    found = {}
    for served in config.releases:
        release = load(served.path, net=served.net or net, defense=served.defense or defense)
        rule = f"less than {release.output.classes:,}, the number of classes of `{served.path}`, or 0 for all"
        require(served.top_k < release.output.classes, "top_k", rule, served.top_k)
        engine = engine_of(release, config.backend, config.device or "cpu", threads=config.threads)
        service = Service(
            release, engine, ledger.states(release.identity) if ledger else None,
            name=served.name, version=served.version, restriction=served.restriction,
            limits=config.limits, merge=config.merge,
        )  # fmt: skip
        found[service.spec.name, service.spec.version] = service
    if not config.allow_same_weights:
        _refuse_same_weights(found)
    return found


def _refuse_same_weights(services: Services) -> None:
    """Answers of the same net under two guards can be subtracted from each other.

    It is the net's own weights that count: what a defense adds to them changes the hash of the whole.
    """
    by_weights = defaultdict[str, list[str]](list)
    for (name, version), service in services.items():
        by_weights[hash_of(service.release.model.net)].append(f"`{name}` version {version}")
    for names in by_weights.values():
        if len(names) > 1:
            raise StealguardError(
                f"{' and '.join(names)} have the same weights: whoever asks both can compare their answers. "
                "Serve one of them, or pass --allow-same-weights."
            )


def server_of(config: Config, services: Services, ledger: Ledger | None) -> Server:
    """The server, which listens already, and answers as soon as it runs."""
    metrics = Metrics(services.values())
    return Server(
        application_of(config, services, ledger, metrics), config.host, config.port,
        metrics=_Metrics(metrics) if config.metrics_port else None, metrics_port=config.metrics_port,
        started=_tell(config, services),
    )  # fmt: skip


def application_of(config: Config, services: Services, ledger: Ledger | None, *observers: Observer) -> Application:
    """The ASGI application of these services, which writes its log to stdout."""
    return Application(
        services, ledger, config.limits,
        routes=page_routes(services, ledger) if config.page else (),
        observers=[*observers, log_to(sys.stdout.buffer)], keep_hashes=config.keep_hashes,
    )  # fmt: skip


class _Metrics:
    """What answers on the metrics port, whatever the path is."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = self._metrics.text()
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _tell(config: Config, services: Services) -> Callable[[Server], None]:
    """Says where the server is, once it answers."""

    def tell(server: Server) -> None:
        for (name, version), service in services.items():
            logging.info("%s version %s: %s (%s)", name, version, service.engine.backend, service.engine.why)
        if config.open:
            logging.warning("Requests need no key, and nothing is counted: this is for trials alone.")
        if server.metrics_port is not None:
            logging.info("metrics: http://127.0.0.1:%d", server.metrics_port)
        if config.page:
            logging.info("page: http://%s:%d/", config.host, server.port)
        logging.info("ready: http://%s:%d/v2", config.host, server.port)

    return tell
