"""From settings to services: what is refused before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import stealguard as sg
from exported import written
from samples import mlp, noise, task
from server_process import ServerProcess, answers_of, ask, client
from stealguard.defenses import DEFENSES, RobustInI
from stealguard.errors import ReleaseError, StealguardError
from stealguard.serving.config import Config, ServedRelease, read_config
from stealguard.serving.run import services_of


@pytest.mark.parametrize("defense", ["top-k", "hoda", "ini-robust"])
def test_a_net_is_not_served_beside_itself_under_another_defense(tmp_path: Path, defense: str) -> None:
    """Even where the defense adds weights of its own, so that the files differ."""
    for name in ("none", defense):
        written(tmp_path / name, DEFENSES[name]())
    config = Config(releases=tuple(ServedRelease(str(tmp_path / name)) for name in ("none", defense)))
    with pytest.raises(StealguardError, match=rf"`none` version 1 and `{defense}` version 1 have the same weights"):
        services_of(config, None, net=mlp())


def test_a_configuration_names_the_net_and_the_defense_of_each_release(tmp_path: Path) -> None:
    for name, net, defense in ("own", "samples:mlp", "own_methods:Halves"), ("named", "mlp", "none"):
        data = task(200, (16,), 3)
        sg.protect(net, data, defense=defense, epochs=1, out=tmp_path / name, progress=False)
    path = tmp_path / "server.yaml"
    path.write_text("releases: [{path: own, net: samples:mlp, defense: own_methods:Halves}, named]\n")
    assert [name for name, _ in services_of(read_config(path), None)] == ["own", "named"]


@pytest.mark.parametrize("left", ["net: samples:mlp", "defense: own_methods:Halves"])
def test_code_that_a_release_names_is_not_imported_for_it(tmp_path: Path, left: str) -> None:
    data = task(200, (16,), 3)
    sg.protect("samples:mlp", data, defense="own_methods:Halves", epochs=1, out=tmp_path / "own", progress=False)
    path = tmp_path / "server.yaml"
    path.write_text(f"releases: [{{path: own, {left}}}]\n")
    with pytest.raises(ReleaseError, match="your own"):
        services_of(read_config(path), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_a_server_without_merging_answers_as_the_release_does_to_the_last_bit(tmp_path: Path, device: str) -> None:
    folder, x = tmp_path / "robust", noise(40, (16,))
    written(folder, RobustInI(), sharpness=10.0)
    settings = "--net", "samples:mlp", "--open", "--no-merge", "--backend", "torch", "--device", device
    server = ServerProcess(tmp_path / "messages", folder, *settings)
    try:
        with client(server.url, "none") as connection:
            found = answers_of(ask(connection, "robust", x.numpy()))
    finally:
        server.kill()
    assert (found == sg.load(folder, net=mlp(), device=device).connect("one")(x).numpy()).all()
