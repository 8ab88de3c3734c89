"""What Prometheus reads: requests, inputs, seconds and what waits, by model; never by account, never inputs."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stealguard.serving.app import LogLine
from stealguard.serving.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics(Collector):
    """The counters of one server, an observer of its requests."""

    def __init__(self, services: Iterable[Service] = ()):
        self._services = list(services)
        self._requests, self._inputs = Counter[tuple[str, str]](), Counter[str]()
        self._seconds = defaultdict[str, float](float)
        self._buckets = defaultdict[str, list[int]](lambda: [0] * (len(SECONDS) + 1))
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def __call__(self, entries: Sequence[LogLine]) -> None:
        """These requests have ended."""
        for _, _, model, rows, status, seconds in entries:
            self._requests[model, str(status)] += 1
            self._seconds[model] += seconds
            self._buckets[model][bisect_left(SECONDS, seconds)] += 1
            if status == 200:
                self._inputs[model] += rows

    def collect(self) -> Iterator[Metric]:
        """As Prometheus' library asks it."""
        labels = ["model", "status"]
        requests = CounterMetricFamily("stealguard_requests", "Requests by model and status", labels=labels)
        inputs = CounterMetricFamily("stealguard_inputs", "Inputs answered, by model", labels=["model"])
        took = HistogramMetricFamily("stealguard_seconds", "Seconds a request took", labels=["model"])
        waiting = GaugeMetricFamily("stealguard_waiting_inputs", "Inputs that wait for their answers", labels=["model"])
        for told, n in self._requests.items():
            requests.add_metric(told, n)
        for model, n in self._inputs.items():
            inputs.add_metric([model], n)
        for model, counts in self._buckets.items():
            bounds = [*map(str, SECONDS), "+Inf"]
            took.add_metric([model], list(zip(bounds, accumulate(counts), strict=True)), self._seconds[model])
        for service in self._services:
            waiting.add_metric([service.spec.name], service.waiting)
        yield from (requests, inputs, took, waiting)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
