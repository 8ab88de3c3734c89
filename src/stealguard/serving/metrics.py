"""What Prometheus reads: requests, inputs, seconds and what waits, by model; never by account, never inputs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stealguard.serving.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one server."""

    def __init__(self, services: Iterable[Service] = ()):
        self._registry = CollectorRegistry()
        known = self._registry
        self._requests = Counter(
            "stealguard_requests", "Requests by model and status", ["model", "status"], registry=known
        )
        self._inputs = Counter("stealguard_inputs", "Inputs answered, by model", ["model"], registry=known)
        self._seconds = Histogram(
            "stealguard_seconds", "Seconds a request took", ["model"], buckets=SECONDS, registry=known
        )
        waiting = Gauge("stealguard_waiting_inputs", "Inputs that wait for their answers", ["model"], registry=known)
        for service in services:
            waiting.labels(service.spec.name).set_function(partial(getattr, service, "waiting"))

    def observe(self, model: str, status: int, rows: int, seconds: float) -> None:
        """A request has ended: with that HTTP status, `rows` inputs answered, after so many seconds."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(seconds)
        if status == 200:
            self._inputs.labels(model).inc(rows)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
