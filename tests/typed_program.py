"""A user's program: `tests/wheel.sh` type-checks it in strict mode against the installed wheel."""

from typing import assert_type

from torch import Tensor, nn

import stealguard as sg


def answer(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :10].softmax(dim=1)


net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
release = sg.protect(net, data="mnist", outliers=["kmnist"], defense=sg.InI(), epochs=6, seed=0, out="runs/mine")
assert_type(release, sg.Release)
box: sg.BlackBox = release.connect("account-1")
answers: Tensor = box(answer(next(net.parameters())))
rows = sg.audit(release, attacks=[sg.attacks.Knockoff(budget=500)], pools=["letters"])
victim = sg.Given(answer, shape=(1, 28, 28), classes=10)
assert_type(victim, sg.Given)
rows += sg.audit(victim, pools=["letters"], clone="lenet5", data="mnist")
assert_type(rows[0].key, str)
