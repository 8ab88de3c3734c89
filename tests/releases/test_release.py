"""Release folders: whole or not there, checked on reading, never unpickled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from grids import environment
from own_methods import Uniform
from samples import mlp, noise, task
from stealguard.defenses.base import Defense, Rule
from stealguard.errors import Invalid, ReleaseError
from stealguard.identity import fingerprint
from stealguard.types import Guard


def test_model_and_box_are_what_was_trained(ini_release: sg.Release) -> None:
    loaded = sg.load(ini_release.folder)
    x = noise(5)
    assert torch.equal(loaded.model(x), ini_release.model(x))
    torch.testing.assert_close(loaded.box(x), loaded.model(x).softmax(dim=1).detach())
    assert not loaded.model.training
    assert loaded.shape == (1, 28, 28)
    assert sorted(p.name for p in ini_release.folder.iterdir()) == ["recipe.json", "weights.safetensors"]


def test_the_recipe_says_how_it_was_made(ini_release: sg.Release) -> None:
    recipe = json.loads((ini_release.folder / "recipe.json").read_text())
    assert recipe["net"] == "lenet5"
    assert recipe["defense"] == {"name": "ini", "settings": {**recipe["defense"]["settings"], "gamma": 0.3}}
    assert recipe["outliers"][0] | {"name": "", "sha256": ""} == {
        "name": "",
        "sha256": "",
        "rows": 400,
        "held_out": 200,
    }
    assert set(recipe["history"][0]) == {
        "epoch", "lr", "task", "induction", "isolation", "magnitude", "validation", "seconds",
    }  # fmt: skip
    assert recipe["provenance"]["version"] == sg.__version__


def test_the_facts_tell_the_structure_of_the_net_and_the_training(ini_release: sg.Release) -> None:
    """By the structure a report compares a release with the undefended one of the same net, and with no other."""
    facts = ini_release.facts()
    assert facts.net_hash == sg.nets.structure(ini_release.model.net)
    assert json.loads(facts.training) == ini_release.recipe["training"]


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "should hold .* Found none"),
        (lambda p: os.truncate(p, p.stat().st_size // 2), "truncated"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"0", b"1", 1)), "tampered|changed after it was written"),
        (lambda p: p.write_bytes(b"\x80\x04."), "truncated or foreign|tampered"),
    ],
    ids=["missing", "truncated", "tampered", "pickle"],
)
def test_a_spoiled_folder_is_refused(folder: Path, name: str, spoil, message: str) -> None:
    spoil(folder / name)
    with pytest.raises(ReleaseError, match=message):
        sg.load(folder)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"nowhere` should be a folder\. Found none\."):
        sg.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match=r"should hold `recipe.json`. Found none \(No such file"):
        sg.load(tmp_path / "empty")


def test_another_format_is_named(folder: Path) -> None:
    path = folder / "recipe.json"
    recipe = {k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"} | {"format": 99}
    path.write_text(json.dumps({**recipe, "sha256": fingerprint(recipe)}))
    with pytest.raises(ReleaseError, match=r"should be of format 2. Found 99"):
        sg.load(folder)


def small(net: str | nn.Module, out: Path) -> sg.Release:
    data = task(200, (16,), 3)
    return sg.protect(net, data, defense="none", epochs=1, out=out, device="cpu", progress=False)


def test_a_users_own_module_has_to_be_passed_again(tmp_path: Path) -> None:
    made = small(mlp(), tmp_path / "own")
    with pytest.raises(ReleaseError, match="made from your own `given:Sequential`: pass it, or one like it, as `net`"):
        sg.load(made.folder)
    again = sg.load(made.folder, net=mlp())
    x = noise(4, (16,))
    assert torch.equal(again.model(x), made.model(x))
    with pytest.raises(Invalid, match=r"`net` should be of the architecture of the release. Found `Sequential`"):
        sg.load(made.folder, net=mlp(16, 4))
    with pytest.raises(Invalid, match=r"`net` should be a name, `module:callable` or a module. Found int"):
        sg.load(made.folder, net=5)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=r"`defense` should be `none`, which the release was made with. Found `top-k`"):
        sg.load(made.folder, net=mlp(), defense=sg.defenses.TopK)


@dataclass(frozen=True)
class Flipped(Defense):
    """Answers in the reverse order of the classes."""

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Rule(lambda answers: answers.flip(1))


def test_the_class_of_another_defense_is_refused_also_where_the_defense_is_the_users_own(tmp_path: Path) -> None:
    """Their settings are the same, none, so that nothing but the name tells them apart."""
    made = sg.protect("mlp", task(40, (16,), 3), defense=Flipped(), epochs=1, out=tmp_path / "own", progress=False)
    x = noise(4, (16,))
    assert torch.equal(sg.load(made.folder, defense=Flipped).box(x), made.box(x))
    for other in (Defense, Uniform):
        with pytest.raises(Invalid, match=r"`defense` should be `.*:Flipped`, which the release was made with. Found"):
            sg.load(made.folder, defense=other)


def test_a_release_does_not_decide_what_code_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_mlp.py").write_text(
        "from torch import nn\nfrom pathlib import Path\nPath('imported').touch()\n"
        "def make(): return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = small("their_mlp:make", Path("own"))
    sys.modules.pop("their_mlp")
    Path("imported").unlink()
    with pytest.raises(ReleaseError, match="made from your own `their_mlp:make`: pass it"):
        sg.load("own")
    assert not Path("imported").exists()
    assert torch.equal(sg.load("own", net="their_mlp:make").model(noise(2, (16,))), made.model(noise(2, (16,))))


def resumed(out: Path) -> sg.Release:
    torch.manual_seed(0)
    return sg.protect(mlp(), task(600, (16,), 3), defense="none", training=sg.Training(epochs=4, batch=16), out=out,
                      resume=True, progress=False)  # fmt: skip


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from itertools import count
from pathlib import Path
import torch
from stealguard.releases import protection
from test_release import resumed
torch.set_num_threads(1)
step, losses = count(), protection.losses_of
def dying(model, batch):
    if next(step) == 80:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses(model, batch)
protection.losses_of = dying
resumed(Path({out!r}))
"""


@pytest.mark.thorough
def test_a_protection_that_was_sigkilled_leaves_no_release_and_resumes_to_the_same_one(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(out))
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "killed.partial" / "checkpoint.pt").exists(), "killed in the third epoch of four"
    assert not out.exists()
    again, whole = resumed(out), resumed(tmp_path / "whole")
    assert again.recipe["weights_sha256"] == whole.recipe["weights_sha256"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "whole"]
