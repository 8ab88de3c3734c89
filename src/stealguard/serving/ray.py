"""Ray Serve: the server's ASGI application in several replicas, which share a ledger in Redis.

```python
# app.py, for `serve run app:app`
from pathlib import Path
from stealguard.serving.config import read_config
from stealguard.serving.ray import deployment

app = deployment(read_config(Path("server.yaml")), replicas=4)
```

Ray's proxy takes the place of stealguard's own HTTP server: of the limits, those of bodies, rows, batches and the queue
hold, and those of connections, headers and time are the proxy's. All requests pass through the proxy of a node, which
is the bottleneck for small nets: behind a common balancer, servers without Ray answer more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stealguard.defenses.base import Defense
from stealguard.errors import StealguardError, require
from stealguard.serving.app import Application
from stealguard.serving.config import Config
from stealguard.serving.ledger import open_ledger
from stealguard.serving.run import application_of, services_of

REQUESTS = 256  # under way at a replica, at most, before Ray holds further ones back


def deployment(
    config: Config,
    *,
    replicas: int = 2,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
    **options: Any,
) -> Any:
    """The releases of these settings as an application for `ray.serve.run`.

    Its nodes need stealguard and the folders of the releases. Ray starts a replica again when it ends; what is lost
    with one is bounded as for a server that is killed (see `stealguard.serving.ledger.base`).

    Args:
        config: what is served, and how; `host`, `port` and `metrics_port` are Ray's concern.
        replicas: how many, at least 1.
        net: the network that was protected, where it is the user's own; see `stealguard.load`.
        defense: the class of the defense, where it is the user's own.
        options: further ones of `ray.serve.deployment`, `ray_actor_options` for example.

    Raises:
        Invalid: the ledger is a file, which replicas cannot share.
        StealguardError: Ray Serve is missing.
    """
    require(replicas >= 1, "replicas", "at least 1", replicas)
    shared = config.open or "://" in config.ledger
    require(shared, "ledger", "in Redis (redis://HOST:PORT/NUMBER), which replicas can share", f"`{config.ledger}`")
    try:
        from ray import serve
    except ImportError as e:
        raise StealguardError(f"Ray Serve is missing: pip install 'stealguard[ray,redis,serve]' ({e}).") from e

    def application() -> Application:  # called by each replica, when it starts
        torch.set_num_threads(config.threads)
        ledger = None if config.open else open_ledger(config.ledger)
        return application_of(config, services_of(config, ledger, net=net, defense=defense), ledger)

    chosen: dict[str, Any] = {
        "name": "stealguard", "max_ongoing_requests": REQUESTS, "ray_actor_options": {"num_cpus": config.threads},
    } | options  # fmt: skip
    deployed: Any = serve.deployment(serve.ingress(application)(), num_replicas=replicas, **chosen)
    return deployed.bind()
