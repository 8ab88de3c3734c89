"""InI's terms for many kinds of surrogates, against double backward in float64; and what is refused by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from benchmarks import double_backward as oracle
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from stealguard.defenses.surrogate import READINGS, Linearization, isolation, magnitude
from stealguard.errors import Invalid


class Net(nn.Module):
    """A net of named parts whose forward pass is the function `run` of the net and the inputs (B, 6)."""

    def __init__(self, run, buffers=(), **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)
        for name, value in dict(buffers).items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def image(x: Tensor) -> Tensor:
    return x.view(-1, 1, 2, 3)


def written(x: Tensor, h: Tensor) -> Tensor:
    """Logits (B, 3) written into an empty tensor one column after the other."""
    logits = x.new_zeros(len(x), 3)
    logits[:, 0] = h[:, 1] * h[:, 2]
    logits[:, 1] = h[:, 0].exp()
    return logits


class Straight(torch.autograd.Function):
    """Rounding, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Once(torch.autograd.Function):
    """exp, with a gradient that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].exp()


def recurrent(kind, **settings):
    width = 10 if settings.get("bidirectional") else 5
    return lambda: Net(
        lambda m, x: m.l(m.r(x.unsqueeze(2))[0][:, -1]),
        r=kind(1, 5, batch_first=True, **settings),
        l=nn.Linear(width, 3),
    )


def img(m, x):
    return x.view(-1, 1, 2, 3)


KINDS = {
    "lstm": recurrent(nn.LSTM),
    "gru": recurrent(nn.GRU),
    "rnn": recurrent(nn.RNN),
    "lstmcell": lambda: Net(lambda m, x: m.c(x)[0], c=nn.LSTMCell(6, 3)),
    "addmm": lambda: Net(lambda m, x: torch.addmm(m.b, x, m.w, alpha=0.5, beta=2.0), b=weight(3), w=weight(6, 3)),
    "addmm_const": lambda: Net(
        lambda m, x: torch.addmm(m.b, x, m.c, alpha=0.5, beta=2.0) * m.s,
        b=weight(3),
        s=weight(3),
        buffers={"c": torch.randn(6, 3)},
    ),
    "baddbmm": lambda: Net(
        lambda m, x: torch.baddbmm(m.b, x.view(-1, 1, 6), m.w.expand(len(x), 6, 3), alpha=0.3, beta=0.7).squeeze(1),
        b=weight(1, 1, 3),
        w=weight(1, 6, 3),
    ),
    "fft": lambda: Net(lambda m, x: m.l(torch.fft.rfft(m.a(x)).abs()), a=nn.Linear(6, 8), l=nn.Linear(5, 3)),
    "fft2": lambda: Net(
        lambda m, x: torch.fft.irfft(torch.fft.rfft(m.a(x)) * torch.view_as_complex(m.w))[:, :3],
        a=nn.Linear(6, 8),
        w=weight(5, 2),
    ),
    "complexbuf": lambda: Net(
        lambda m, x: torch.view_as_real(m.a(x).to(torch.complex128) * m.c).flatten(1)[:, :3],
        a=nn.Linear(6, 4),
        buffers={"c": torch.randn(4, dtype=torch.complex128)},
    ),
    "einsum": lambda: Net(
        lambda m, x: torch.einsum("bi,ij,bj,jk->bk", x, m.w, m.a(x), m.v),
        w=weight(6, 6),
        a=nn.Linear(6, 6),
        v=weight(6, 3),
    ),
    "mha": lambda: Net(
        lambda m, x: m.l(m.a(*(3 * [m.e(x.unsqueeze(2))]))[0].mean(1)),
        e=nn.Linear(1, 4),
        a=nn.MultiheadAttention(4, 2, batch_first=True),
        l=nn.Linear(4, 3),
    ),
    "sdpa": lambda: Net(
        lambda m, x: m.l(F.scaled_dot_product_attention(*(3 * [m.e(x.view(-1, 1, 6, 1))])).mean((1, 2))),
        e=nn.Linear(1, 4),
        l=nn.Linear(4, 3),
    ),
    "encoder": lambda: Net(
        lambda m, x: m.l(m.t(m.e(x.unsqueeze(2))).mean(1)),
        e=nn.Linear(1, 4),
        t=nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        l=nn.Linear(4, 3),
    ),
    "group": lambda: Net(
        lambda m, x: m.l(m.n(m.c(image(x))).flatten(1)),
        c=nn.Conv2d(1, 4, 3, padding=1),
        n=nn.GroupNorm(2, 4),
        l=nn.Linear(24, 3),
    ),
    "layer": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
    "instance": lambda: Net(
        lambda m, x: m.l(m.n(m.c(image(x))).flatten(1)),
        c=nn.Conv2d(1, 4, 3, padding=1),
        n=nn.InstanceNorm2d(4, affine=True),
        l=nn.Linear(24, 3),
    ),
    "grouped": lambda: Net(
        lambda m, x: m.l(m.d(m.c(image(x)).relu()).flatten(1)),
        c=nn.Conv2d(1, 4, 3, padding=1),
        d=nn.Conv2d(4, 8, 2, groups=4, dilation=1),
        l=nn.Linear(16, 3),
    ),
    "transposed": lambda: Net(
        lambda m, x: m.l(m.c(image(x)).flatten(1)), c=nn.ConvTranspose2d(1, 2, 3, stride=2), l=nn.Linear(2 * 5 * 7, 3)
    ),
    "interp": lambda: Net(
        lambda m, x: m.l(F.interpolate(m.c(image(x)), scale_factor=2, mode="bilinear").flatten(1)),
        c=nn.Conv2d(1, 2, 3, padding=1),
        l=nn.Linear(48, 3),
    ),
    "gridsample": lambda: Net(
        lambda m, x: m.l(
            F.grid_sample(
                m.c(image(x)),
                F.affine_grid(m.t.expand(len(x), 2, 3), [len(x), 2, 2, 3], align_corners=False),
                align_corners=False,
            ).flatten(1)
        ),
        t=weight(2, 3),
        c=nn.Conv2d(1, 2, 3, padding=1),
        l=nn.Linear(12, 3),
    ),
    "embed": lambda: Net(lambda m, x: m.l(m.e((x * 9).long()).flatten(1)), e=nn.Embedding(10, 2), l=nn.Linear(12, 3)),
    "scatter": lambda: Net(
        lambda m, x: torch.zeros(len(x), 3, dtype=x.dtype).scatter_add(
            1, torch.tensor([[0, 1, 2, 0, 1, 2, 1, 1]]).expand(len(x), 8), m.a(x)
        ),
        a=nn.Linear(6, 8),
    ),
    "scatter_": lambda: Net(
        lambda m, x: torch.zeros(len(x), 3, dtype=x.dtype).scatter_(
            1, torch.tensor([[0, 1, 2]]).expand(len(x), 3), m.a(x)
        ),
        a=nn.Linear(6, 3),
    ),
    "index_put": lambda: Net(lambda m, x: written(x, m.a(x)), a=nn.Linear(6, 3)),
    "inplace": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.SiLU(inplace=True), nn.Linear(8, 3)
    ),
    "inplace2": lambda: Net(lambda m, x: m.l(m.a(x).mul_(2).add_(1).tanh_()), a=nn.Linear(6, 8), l=nn.Linear(8, 3)),
    "inplace_x": lambda: Net(lambda m, x: m.l(m.a(x.sub_(0.5).div_(0.3)).relu()), a=nn.Linear(6, 8), l=nn.Linear(8, 3)),
    "prelu": lambda: nn.Sequential(nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 3)),
    "bn": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "maxpool": lambda: Net(
        lambda m, x: m.l(F.max_pool2d(m.c(image(x)), 2).flatten(1)), c=nn.Conv2d(1, 4, 3, padding=1), l=nn.Linear(4, 3)
    ),
    "maxpool1d": lambda: Net(
        lambda m, x: m.l(F.max_pool1d(m.c(x.unsqueeze(1)), 2).flatten(1)),
        c=nn.Conv1d(1, 4, 3, padding=1),
        l=nn.Linear(12, 3),
    ),
    "adaptive": lambda: Net(
        lambda m, x: m.l(F.adaptive_max_pool2d(m.c(image(x)), 2).flatten(1)),
        c=nn.Conv2d(1, 4, 3, padding=1),
        l=nn.Linear(16, 3),
    ),
    "conv3d": lambda: Net(
        lambda m, x: m.l(m.c(x.view(-1, 1, 1, 2, 3)).flatten(1)), c=nn.Conv3d(1, 2, (1, 2, 2)), l=nn.Linear(4, 3)
    ),
    "bilinear": lambda: Net(lambda m, x: m.b(x, m.a(x)), a=nn.Linear(6, 4), b=nn.Bilinear(6, 4, 3)),
    "weightnorm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "spectral": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "oldspectral": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)),
    "oldweight": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)),
    "orth": lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3)),
    "glu": lambda: nn.Sequential(nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 3)),
    "cumsum": lambda: Net(
        lambda m, x: m.l(m.a(x).cumsum(1).logsumexp(1, keepdim=True)), a=nn.Linear(6, 8), l=nn.Linear(1, 3)
    ),
    "sort": lambda: Net(lambda m, x: m.l(m.a(x).sort(1)[0].topk(3)[0]), a=nn.Linear(6, 8), l=nn.Linear(3, 3)),
    "normalize": lambda: Net(
        lambda m, x: 5 * F.linear(F.normalize(m.a(x)), F.normalize(m.w)), a=nn.Linear(6, 8), w=weight(3, 8)
    ),
    "norm": lambda: Net(lambda m, x: m.l(m.a(x).norm(dim=1, keepdim=True)), a=nn.Linear(6, 8), l=nn.Linear(1, 3)),
    "solve": lambda: Net(
        lambda m, x: m.l(torch.linalg.solve(m.w @ m.w.T + torch.eye(6, dtype=x.dtype), x.T).T),
        w=weight(6, 6),
        l=nn.Linear(6, 3),
    ),
    "where": lambda: Net(
        lambda m, x: m.l(torch.where(m.a(x) > 0, m.a(x), m.b(x).exp())),
        a=nn.Linear(6, 8),
        b=nn.Linear(6, 8),
        l=nn.Linear(8, 3),
    ),
    "detach": lambda: Net(
        lambda m, x: m.l(m.a(x).detach() + m.b(x)), a=nn.Linear(6, 8), b=nn.Linear(6, 8), l=nn.Linear(8, 3)
    ),
    "nograd": lambda: Net(
        lambda m, x: m.l(torch.no_grad()(m.a)(x) + m.b(x)), a=nn.Linear(6, 8), b=nn.Linear(6, 8), l=nn.Linear(8, 3)
    ),
    "branch": lambda: Net(
        lambda m, x: m.l(m.a(x) if m.a(x).mean() > 0 else m.a(x) * 2), a=nn.Linear(6, 8), l=nn.Linear(8, 3)
    ),
    "ste": lambda: Net(lambda m, x: m.l(Straight.apply(m.a(x))), a=nn.Linear(6, 8), l=nn.Linear(8, 3)),
    "checkpoint": lambda: Net(
        lambda m, x: m.l(torch.utils.checkpoint.checkpoint(m.a, x, use_reentrant=False)),
        a=nn.Linear(6, 8),
        l=nn.Linear(8, 3),
    ),
    "tied": lambda: Net(lambda m, x: m.l(F.linear(m.a(x).relu(), m.a.weight)), a=nn.Linear(6, 6), l=nn.Linear(6, 3)),
    "unused": lambda: Net(lambda m, x: m.l(x), a=nn.Linear(6, 6), l=nn.Linear(6, 3)),
    "counter": lambda: Net(lambda m, x: (m.n.add_(1), m.l(x))[1], l=nn.Linear(6, 3), buffers={"n": torch.zeros(())}),
    "rms": lambda: nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 3)),
    "mixed32": lambda: Net(lambda m, x: m.l((m.a(x).float() * 2).double()), a=nn.Linear(6, 8), l=nn.Linear(8, 3)),
    "convsame": lambda: Net(
        lambda m, x: m.l(m.c(image(x)).flatten(1)),
        c=nn.Conv2d(1, 2, 2, padding="same", padding_mode="circular"),
        l=nn.Linear(12, 3),
    ),
}


@pytest.mark.slow
@pytest.mark.no_cover
def grids_have_two_derivatives() -> bool:
    """Whether torch can differentiate `grid_sample` twice: the oldest version that is supported cannot."""
    grid = torch.zeros(1, 1, 1, 2, requires_grad=True)
    drawn = F.grid_sample(torch.rand(1, 1, 2, 2), grid, align_corners=False).sum()
    (first,) = torch.autograd.grad(drawn, grid, create_graph=True)
    try:
        torch.autograd.grad(first.sum(), grid)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_of_net_agrees_with_double_backward(name: str) -> None:
    if name == "gridsample" and not grids_have_two_derivatives():
        pytest.skip(f"torch {torch.__version__} has no second derivative of grid_sample")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old weight norm
        surrogate = KINDS[name]().double().eval()
    x, y = torch.rand(5, 6, dtype=torch.float64), torch.arange(5) % 3
    before = x.clone()
    for reading in READINGS:
        v = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        ours = [isolation(v, surrogate, x, y, reading), magnitude(v, surrogate, x, reading)]
        with sdpa_kernel(SDPBackend.MATH):
            theirs = [
                oracle.isolation(v, surrogate, x.clone(), y, reading),
                oracle.magnitude(v, surrogate, x.clone(), reading),
            ]
            expected = [torch.autograd.grad(value, v)[0] for value in theirs]
        got = [torch.autograd.grad(value, v)[0] for value in ours]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
        assert all(gradient.abs().max() > 1e-6 for gradient in expected), "the oracle's gradient must not vanish"
    assert torch.equal(x, before)


REFUSED = {
    "cdist": lambda: Net(lambda m, x: -torch.cdist(m.a(x), m.w), a=nn.Linear(6, 8), w=weight(3, 8)),
    "once": lambda: Net(lambda m, x: m.l(Once.apply(m.a(x))), a=nn.Linear(6, 8), l=nn.Linear(8, 3)),
    "dropout": lambda: Net(lambda m, x: m.l(F.dropout(m.a(x))), a=nn.Linear(6, 8), l=nn.Linear(8, 3)),
    "embbag": lambda: Net(lambda m, x: m.l(m.e((x * 9).long())), e=nn.EmbeddingBag(10, 4), l=nn.Linear(4, 3)),
    "no weights": lambda: Net(lambda m, x: x[:, :3]),
    "complex weights": lambda: Net(lambda m, x: (x.to(m.w.dtype) @ m.w).abs(), w=nn.Parameter(torch.randn(6, 3) + 0j)),
}
REASONS = {
    "cdist": r"that can be differentiated. Found `Net` \(Trying to use forward AD with _cdist_forward that does not",
    "once": r"that can be differentiated. Found `Net` \(J u and J\^T c contradict each other",
    "dropout": "that gives the same logits when asked again. Found `Net`",
    "embbag": r"that can be differentiated. Found `Net` \(Trying to use forward AD with _embedding_bag that does not",
    "no weights": "with parameters, all of them real floating-point numbers. Found `Net` without any",
    "complex weights": "real floating-point numbers. Found `w` of torch.complex",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_differentiated_is_refused_by_name(name: str) -> None:
    net = REFUSED[name]()
    net = net if name == "complex weights" else net.double()
    x = torch.rand(5, 6, dtype=next(net.parameters(), torch.zeros(1).double()).real.dtype)
    with pytest.raises(Invalid, match=f"`surrogate` should be a module .*{REASONS[name]}"):
        Linearization(net.eval(), x)


def test_a_branch_by_value_is_followed_for_all_inputs() -> None:
    net = Net(lambda m, x: m.a(x) if x.mean() > 0.5 else m.b(x), a=nn.Linear(6, 3), b=nn.Linear(6, 3)).double()
    for x in (torch.rand(5, 6).double() / 2, torch.rand(5, 6).double() / 2 + 0.5):
        torch.testing.assert_close(Linearization(net, x).logits, net(x))


def test_the_terms_are_exact_under_autocast() -> None:
    """Autocast to bfloat16 around the terms, as in training with `precision="bf16"`, changes nothing."""
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    x, y, v = torch.rand(5, 6), torch.arange(5) % 3, torch.randn(5, 3, requires_grad=True)

    def terms() -> list[Tensor]:
        losses = [isolation(v, net, x, y), magnitude(v, net, x)]
        return losses + [torch.autograd.grad(loss, v)[0] for loss in losses]

    plain = terms()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = terms()
    assert all(torch.equal(a, b) for a, b in zip(plain, under, strict=True))
