"""What Prometheus reads, after some requests."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from stealguard.serving.app import LogLine
from stealguard.serving.metrics import Metrics


def test_requests_are_counted_by_model_and_status_and_inputs_only_where_they_were_answered() -> None:
    metrics = Metrics()
    metrics([LogLine(0.0, "ann", "digits", 3, 200, 0.002), LogLine(0.0, "ann", "digits", 5, 403, 0.001)])
    metrics([LogLine(0.0, "", "", 0, 401, 20.0), LogLine(0.0, "bob", "digits", 1, 200, 0.5)])
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}

    requests = {tuple(one.labels.values()): one.value for one in families["stealguard_requests"].samples}
    assert requests == {("digits", "200"): 2, ("digits", "403"): 1, ("", "401"): 1}
    assert [(one.labels, one.value) for one in families["stealguard_inputs"].samples] == [({"model": "digits"}, 4)]
    samples = families["stealguard_seconds"].samples
    took = {(one.name.rpartition("_")[2], one.labels["model"], one.labels.get("le")): one.value for one in samples}
    found = [took["bucket", "digits", bound] for bound in ("0.001", "0.0025", "0.25", "0.5", "+Inf")]
    assert found == [1, 2, 2, 3, 3]
    assert took["count", "digits", None] == 3
    assert abs(took["sum", "digits", None] - 0.503) < 1e-9
    assert (took["bucket", "", "10.0"], took["bucket", "", "+Inf"]) == (0, 1)
