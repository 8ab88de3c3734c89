"""Victims that stealguard did not make: a function, a scikit-learn forest, a torch module, an ONNX file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, mlp, noise, task
from stealguard.attacks import Knockoff
from stealguard.auditing.victim import victim_of
from stealguard.errors import BoxFault, Invalid
from stealguard.results import Store

SHAPE, CLASSES = (16,), 3
DATA = task(300, SHAPE, CLASSES)
X, Y, TEST_X, TEST_Y = DATA
SHORT = Knockoff(budget=200, training=sg.Training(epochs=10, batch=32, lr=0.1))


def trained() -> nn.Module:
    torch.manual_seed(0)
    net = mlp()
    sg.fit(net, X, Y, sg.Training(epochs=10, batch=32), seed=0, progress=False)
    return net


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained()


def audit(victim: Any, store: Path, **changes: Any) -> list[Any]:
    given: dict[str, Any] = {
        "attacks": SHORT, "pools": [X.flip(0)[:250]], "labels": "soft", "data": DATA, "clone": mlp(),
        "store": store / "rows.sqlite", "progress": False,
    }  # fmt: skip
    return sg.audit(victim, **(given | changes))


def check(rows: list[Any], folder: Path) -> None:
    """The rows of a victim that is stolen with task inputs, and the report on them."""
    assert [row.status for row in rows] == ["ok"]
    assert (rows[0].benign_accuracy or 0) > 0.9
    assert (rows[0].clone_accuracy or 0) > 0.8
    assert rows[0].victim.defense == ""
    page = folder / "report.html"
    sg.report.write_html(rows, page)
    assert "not known" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_bare_function_of_arrays_is_audited(net: nn.Module, tmp_path: Path) -> None:
    weights = [p.detach().numpy().astype(np.float64) for p in net.parameters()]

    def model(x: np.ndarray) -> np.ndarray:
        assert isinstance(x, np.ndarray)
        hidden = np.maximum(x @ weights[0].T + weights[1], 0)
        e = np.exp(hidden @ weights[2].T + weights[3])
        return e / e.sum(axis=1, keepdims=True)

    check(audit(sg.Given(model, shape=SHAPE, classes=CLASSES), tmp_path), tmp_path)


@pytest.mark.slow
def test_a_scikit_learn_forest_is_audited(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(20, random_state=0).fit(X.numpy(), Y.numpy())
    check(audit(sg.Given(forest.predict_proba, shape=SHAPE, classes=CLASSES), tmp_path), tmp_path)
    x = TEST_X[:5]
    expected = torch.from_numpy(forest.predict_proba(x.numpy())).float()
    torch.testing.assert_close(sg.Given(forest).connect()(x), expected)


@pytest.mark.slow
def test_a_scikit_learn_classifier_is_not_taken_for_one_with_the_same_answers_to_the_test_inputs(
    tmp_path: Path,
) -> None:
    class Threshold:
        """The second class where all numbers are above a threshold, as they are in no test input."""

        def __init__(self, threshold: float):
            self.threshold = threshold

        def predict(self, x: np.ndarray) -> np.ndarray:
            return (x.min(axis=1) > self.threshold).astype(int)

    pool = torch.linspace(0, 1, 250)[:, None].expand(-1, *SHAPE).clone()
    first, other, again = (
        audit(Threshold(threshold), tmp_path, pools=[pool], clone="mlp") for threshold in (0.6, 0.8, 0.8)
    )
    assert first[0].victim.key == other[0].victim.key
    assert first[0].key != other[0].key
    assert again == other


@pytest.mark.slow
def test_a_torch_module_is_audited_with_clones_of_its_own_architecture(net: nn.Module, tmp_path: Path) -> None:
    rows = audit(net, tmp_path, clone=None)
    check(rows, tmp_path)
    assert rows[0].clone == "given:Sequential"
    assert victim_of(net).identity == victim_of(trained()).identity
    assert victim_of(net).identity != victim_of(mlp()).identity


@pytest.mark.slow
def test_an_onnx_file_is_audited(net: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model[1].onnx"  # a name that a pattern of names would not match
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(net.eval(), (X[:2],), path, dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True)
    check(audit(str(path), tmp_path), tmp_path)
    torch.testing.assert_close(victim_of(path).connect()(X[:7]), net(X[:7]).softmax(dim=1).detach())
    before = victim_of(path).identity
    path.write_bytes(path.read_bytes() + b"\x12\x00")  # no producer's version: another file, of the same net
    assert victim_of(path).identity != before


@pytest.mark.slow
def test_a_release_is_audited(tmp_path: Path) -> None:
    release = sg.protect(
        mlp(), DATA, defense="none", training=sg.Training(epochs=10, batch=32), out=tmp_path / "a", progress=False
    )
    (row,) = audit(release, tmp_path)
    assert (row.status, row.victim.defense) == ("ok", "none")
    sg.report.write_html([row], tmp_path / "report.html")


def test_a_name_of_code_is_a_victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_model.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def predict(x): return torch.full((len(x), 3), 1 / 3)\n"
        "def make(): return nn.Linear(16, 3)\n"
        "net = make()\n"
        "def broken(): raise OSError('no weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("predict", "make", "net"):
        assert victim_of(f"their_model:{name}").connect()(TEST_X[:4]).shape in {(4, 3)}
    with pytest.raises(Invalid, match=r"`victim` should be .* Found `their_model:broken` \(OSError: no weights\)"):
        victim_of("their_model:broken")
    with pytest.raises(Invalid, match="`victim` should be"):
        victim_of("their_model:nothing")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (lambda x: np.arange(len(x)) % 2, [[1, 0], [0, 1], [1, 0]]),
        (lambda x: np.array([0.25, 0.5, 1.0]), [[0.75, 0.25], [0.5, 0.5], [0, 1]]),
        (lambda x: torch.tensor([[0.25], [0.5], [1.0]]), [[0.75, 0.25], [0.5, 0.5], [0, 1]]),
        (lambda x: [[0.75, 0.25], [0.5, 0.5], [0, 1]], [[0.75, 0.25], [0.5, 0.5], [0, 1]]),
    ],
    ids=["labels", "probability", "column", "list"],
)
def test_labels_and_single_probabilities_are_understood(answers: Any, expected: list[list[float]]) -> None:
    found = sg.Given(answers, shape=(4,), classes=2).connect()(torch.rand(3, 4))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_a_function_of_tensors_is_asked_with_tensors(net: nn.Module) -> None:
    def model(x: Tensor) -> Tensor:
        return net(x).softmax(dim=1)

    torch.testing.assert_close(sg.Given(model).connect()(X[:5]), net(X[:5]).softmax(dim=1).detach())


def test_a_module_may_give_logits_log_probabilities_or_probabilities() -> None:
    torch.manual_seed(0)
    body, x = nn.Linear(16, 3), noise(6, SHAPE)
    expected = body(x).softmax(dim=1).detach()
    for last in (nn.Identity(), nn.Softmax(dim=1), nn.LogSoftmax(dim=1)):
        torch.testing.assert_close(sg.Given(nn.Sequential(body, last)).connect()(x), expected)


def test_the_first_outputs_of_a_net_tell_whether_all_are_logits() -> None:
    """Of a net with one logit, a single input's may lie between 0 and 1."""
    torch.manual_seed(0)
    body, x = nn.Linear(16, 1), noise(200, SHAPE)
    expected = body(x).squeeze(1).sigmoid().detach()
    box = sg.Given(body, SHAPE, 2).connect()
    torch.testing.assert_close(box(x)[:, 1], expected)
    torch.testing.assert_close(torch.cat([box(row[None]) for row in x])[:, 1], expected)
    last = sg.Given(nn.Sequential(body, nn.Sigmoid()), SHAPE, 2).connect()
    torch.testing.assert_close(last(x)[:, 1], expected)
    late = sg.Given(nn.Identity(), (1,), 2).connect()
    late(torch.full((1, 1), 0.5))
    with pytest.raises(BoxFault, match="logits after what were probabilities"):
        late(torch.full((1, 1), 1.5))


class Wrapped(nn.Module):
    """A net whose logits stand in something else."""

    def __init__(self, body: nn.Module, wrap: Callable[[Tensor], Any]):
        super().__init__()
        self.body, self.wrap = body, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, lambda z: (None, z), lambda z: [z, z[:, :2]]])
def test_logits_are_found_where_protect_finds_them(wrap: Callable[[Tensor], Any]) -> None:
    body, x = nn.Linear(16, 3), noise(6, SHAPE)
    expected = body(x).softmax(dim=1).detach()
    torch.testing.assert_close(sg.Given(Wrapped(body, wrap)).connect()(x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_is_asked_in_the_precision_of_its_weights(dtype: torch.dtype) -> None:
    body, x = nn.Linear(16, 3).to(dtype), noise(6, SHAPE)
    expected = body(x.to(dtype)).float().softmax(dim=1).detach()
    torch.testing.assert_close(sg.Given(body).connect()(x), expected)


def test_probabilities_that_were_rounded_are_probabilities() -> None:
    body, x = nn.Sequential(nn.Linear(16, 3), nn.Softmax(dim=1)).to(torch.bfloat16), noise(50, SHAPE)
    found = body(x.bfloat16()).float().detach()
    assert ((found.sum(dim=1) - 1).abs() > 1e-3).any()
    torch.testing.assert_close(sg.Given(body).connect()(x), found / found.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("answers", [lambda x: np.full((len(x), 3), 0.5), lambda x: np.zeros((2, len(x), 3))])
def test_what_is_no_answer_is_the_victims_fault(answers: Any) -> None:
    with pytest.raises(BoxFault, match="should answer rows on the simplex"):
        sg.Given(answers, shape=(4,), classes=3, name="theirs").connect()(torch.rand(2, 4))


def test_what_cannot_be_asked_is_named() -> None:
    for given in (None, 3, [1.0]):
        with pytest.raises(Invalid, match="`victim` should be a release, a model or a function of inputs"):
            sg.Given(given)


def test_the_data_tell_what_a_function_does_not(tmp_path: Path) -> None:
    def model(x: np.ndarray) -> np.ndarray:
        return np.eye(CLASSES)[(x[:, 0] * 2.9).astype(int)]

    (row,) = audit(model, tmp_path)
    assert (row.victim.classes, tuple(row.victim.shape)) == (CLASSES, SHAPE)
    with pytest.raises(Invalid, match="`data` should be of the victim's 4 classes"):
        audit(sg.Given(model, classes=4), tmp_path)
    with pytest.raises(Invalid, match=r"`data` should be of shape \(N, 15\)"):
        audit(sg.Given(model, shape=(15,)), tmp_path)
    with pytest.raises(Invalid, match="`data` should be given"):
        audit(model, tmp_path, data=None)


@pytest.mark.slow
def test_a_victim_without_an_identity_is_known_by_its_answers(tmp_path: Path) -> None:
    turned = False

    def model(x: np.ndarray) -> np.ndarray:
        return np.eye(CLASSES)[(x[:, 0] * 2.9).astype(int) if not turned else (x[:, 1] * 2.9).astype(int)]

    clone = mlp()
    first, again = (audit(model, tmp_path, clone=clone)[0] for _ in range(2))
    assert first == again, "a row of the same answers is found again"
    turned = True
    assert audit(model, tmp_path, clone=clone)[0].key != first.key, "and of others it is not"


def test_the_victims_own_weights_are_no_clone(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="`clone` should be a net that has not learned from the victim"):
        audit(net, tmp_path, clone=net)


@pytest.mark.slow
def test_rows_know_the_test_set_and_the_clones_structure(net: nn.Module, tmp_path: Path) -> None:
    x, y, z, w = DATA
    a, b = (audit(net, tmp_path, data=data)[0] for data in (DATA, (x, y, z, (w + 1) % CLASSES)))
    assert a.key != b.key
    assert (a.benign_accuracy or 0) > 0.9 > 0.2 > (b.benign_accuracy or 0)
    weak = nn.Sequential(nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 3))
    assert len({audit(net, tmp_path, clone=clone)[0].key for clone in (weak, mlp())}) == 2


def test_test_inputs_are_not_queried(net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = audit(net, tmp_path, pools=[torch.cat([TEST_X, X[:200]])], progress=True)
    assert row.queries == 200
    assert f"not queried: {len(TEST_X)}" in capsys.readouterr().err
    with pytest.raises(Invalid, match="`pools` should be free of the task's test inputs"):
        audit(net, tmp_path, pools=[TEST_X])


@pytest.mark.slow
def test_one_value_is_taken_where_several_may_stand(net: nn.Module, tmp_path: Path) -> None:
    rows = audit(net, tmp_path, attacks=SHORT, seeds=3, labels="hard", treatments="sharpen", own=0)
    assert [(row.seed, row.labels, row.treatment) for row in rows] == [(3, "hard", "sharpen")]
    rows = audit(net, tmp_path, attacks=["knockoff"], budgets=50, pools=X.numpy())
    assert [(row.attack, row.budget) for row in rows] == [("knockoff", 50)]
    with pytest.raises(Invalid, match="`attacks` should be attacks, their names or a suite's"):
        audit(net, tmp_path, attacks=[3])


@pytest.mark.slow
def test_an_exception_in_one_attack_does_not_end_the_others(net: nn.Module, tmp_path: Path) -> None:
    class Broken(Knockoff):
        def __call__(self, *arguments: Any, **named: Any) -> nn.Module:
            raise ValueError("no such thing\nat all")

    broken, fine = audit(net, tmp_path, attacks=[Broken(budget=200), SHORT])
    assert (broken.status, broken.reason) == ("failed", "ValueError: no such thing")
    assert fine.status == "ok"


@pytest.mark.slow
def test_raw_units_are_taken_and_attacks_work_in_the_unit_cube(tmp_path: Path) -> None:
    x, y, test_x, test_y = DATA
    data = (100 * x - 20, y, 100 * test_x - 20, test_y)
    release = sg.protect(
        mlp(), data, defense="none", training=sg.Training(epochs=10, batch=32), out=tmp_path / "a", progress=False
    )
    assert (release.box(data[2]).argmax(1) == test_y).double().mean() > 0.9
    (row,) = audit(release, tmp_path, data=data, pools=[data[0].flip(0)[:250]])
    assert (row.status, (row.clone_accuracy or 0) > 0.8) == ("ok", True)
    given = sg.Given(lambda x: release.box(torch.as_tensor(x)), shape=SHAPE, classes=CLASSES)
    (row,) = audit(given, tmp_path, data=data, pools=[data[0].flip(0)[:250]])
    assert (row.status, (row.clone_accuracy or 0) > 0.8) == ("ok", True)


def test_accounts_of_a_release_are_told_apart(tmp_path: Path) -> None:
    from stealguard.defenses import PRADA

    release = sg.protect(
        mlp(), DATA, defense=PRADA(delta=1.0), training=sg.Training(epochs=1, batch=32), out=tmp_path / "a",
        progress=False,
    )  # fmt: skip
    assert release.box is release.box
    x = blobs(400, SHAPE, CLASSES, seed=5)[0]
    with pytest.raises(sg.errors.Refused):
        release.connect("one")(x)
    assert len(release.connect("two")(x[:50])) == 50
    assert len(release.box(x[:50])) == 50
    with pytest.raises(sg.errors.Refused):
        release.connect("one")(x)


@pytest.mark.parametrize(
    "raised", [KeyError("a\nb"), SystemExit("x"), TypeError("no tensors"), RuntimeError("ONNX"), RecursionError()]
)
def test_whatever_a_model_raises_is_the_boxs_fault_in_one_line(raised: BaseException, tmp_path: Path) -> None:
    def model(x: Any) -> Any:
        raise raised

    with pytest.raises(BoxFault, match=rf"`model` should answer. Found {type(raised).__name__}") as caught:
        audit(model, tmp_path)
    assert "\n" not in str(caught.value)


def test_answers_that_are_no_probabilities_are_found_before_anything_is_stolen(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * float("nan")

    with pytest.raises(BoxFault, match=r"should answer rows on the simplex|finite numbers"):
        audit(Broken(), tmp_path)
    assert not len(Store(tmp_path / "rows.sqlite"))


def test_a_net_and_a_defense_are_those_of_a_releases_folder(net: nn.Module) -> None:
    for name, value in (("net", mlp()), ("net", "their_model:net"), ("defense", sg.defenses.TopK)):
        with pytest.raises(Invalid, match=f"`{name}` should be left out where the victim is not the folder of a"):
            victim_of(net, **{name: value})


def test_there_is_a_name_for_each_class_or_none() -> None:
    assert sg.Given(mlp(), names=("a", "b", "c")).output == (3, ("a", "b", "c"))
    with pytest.raises(Invalid, match=r"`names` should be of all 3 classes. Found 2"):
        sg.Given(mlp(), classes=3, names=("a", "b"))
