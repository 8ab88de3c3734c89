"""Loss functions in float64, against the sums they are defined by."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stealguard.training.losses import center, induction, inner, kl, mean_abs, norm


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 1000))
def test_against_their_definitions(n: int, k: int, seed: int) -> None:
    v, s = torch.randn(2, n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    log_p, log_q = v.log_softmax(1), s.log_softmax(1)
    close = torch.testing.assert_close
    close(center(v).softmax(1), v.softmax(1))
    close(center(v).sum(1), torch.zeros(n, dtype=v.dtype), atol=1e-12, rtol=0)
    close(
        induction(v, s), sum(abs(s[i, j] - log_p[i, j] + log_p[i].mean()) for i in range(n) for j in range(k)) / (n * k)
    )
    close(kl(log_p, log_q), (log_p.exp() * (log_p - log_q)).sum() / n)
    assert kl(log_p, log_q) >= -1e-12
    parts = [v, s[0]]
    whole = torch.cat([v.flatten(), s[0]])
    close(inner(parts, parts), whole @ whole)
    close(norm(parts), whole.norm())
    close(mean_abs(parts), whole.abs().mean())
