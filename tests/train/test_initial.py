"""What a run starts from: runs, files and names; what is taken over, recorded and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError, DataError, OutOfReachError
from sciencessl.evaluate.export import export
from sciencessl.spec import FieldSpec, InputStats
from sciencessl.store.format import digest
from sciencessl.train.folder import WEIGHTS, read_model, write_model
from sciencessl.train.initial import InitialWeights, find_initial, initial_words, read_initial, save_initial
from sciencessl.train.module import Pretraining

RGB = FieldSpec("bytes", ("r", "g", "b"))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timm's repositories have them, under a licence that is not free."""
    folder = tmp_path_factory.mktemp("named")
    save_file(build_backbone("test_resnet", 3, 7).state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "seer-license"}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": cfg}))
    return folder


def find(source: Any, field: FieldSpec = RGB, backbone: str = "test_resnet") -> InitialWeights:
    found = find_initial(str(source), backbone, "batch", field)
    assert found is not None
    return found


def test_runs_and_files_keep_the_statistics_of_the_new_store(finished: Path) -> None:
    assert find(finished) == InitialWeights(str(finished), finished / WEIGHTS)
    assert find(finished / WEIGHTS) == InitialWeights(str(finished / WEIGHTS), finished / WEIGHTS)
    assert find_initial("", "test_resnet", "batch", RGB) is None


def test_names_bring_statistics_where_the_store_can_give_that_input(named: Path) -> None:
    found = find(f"local-dir:{named}")
    assert found.stats == InputStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (255.0,) * 3)
    assert find(f"local-dir:{named}", FieldSpec("bytes", ("g",))).stats is None
    terms, statistics = initial_words(found)
    assert terms.startswith(f"local-dir:{named}: licence 'seer-license': non-commercial research only")
    assert statistics == f"input has the mean and deviation of local-dir:{named}"
    assert initial_words(None) == initial_words(InitialWeights("runs/a", Path("w"))) == []


def test_a_record_is_read_as_it_was_written(named: Path, tmp_path: Path) -> None:
    for found in (find(f"local-dir:{named}"), find(named / "model.safetensors")):
        save_initial(tmp_path, found)
        assert read_initial(tmp_path) == replace(found, digest=digest(found.file.read_bytes()))
    assert read_initial(tmp_path / "nothing") is None


def test_bands_of_a_run_are_not_guessed(finished: Path, tmp_path: Path) -> None:
    bands = replace(read_model(finished), channels=tuple("grizy"))
    write_model(tmp_path, bands, build_backbone("test_resnet", 5, 0))
    five = FieldSpec("bytes", tuple("ugriz"))
    assert find(tmp_path, five).file == tmp_path / WEIGHTS  # as many, whatever they are called
    message = r"that run saw 5 channels \(g, r, i, z, y\), and this store has 4 \(g, r, i, z\). Only .* three channels"
    with pytest.raises(ConfigError, match=message):
        find(tmp_path, FieldSpec("bytes", tuple("griz")))
    assert find(finished, five).file == finished / WEIGHTS  # three are adapted to any number
    build_backbone("test_resnet", 5, 0, finished / WEIGHTS)


def test_named_weights_of_another_backbone_are_refused(named: Path) -> None:
    words = r"weights of backbone 'test_resnet', and this one would train 'test_vit'\. Pass --backbone test_resnet"
    with pytest.raises(ConfigError, match=words):
        find(f"local-dir:{named}", backbone="test_vit")


@pytest.mark.parametrize("source", ["seer:32gf", "hub:ada/galaxies"])
def test_another_backbone_is_refused_before_its_weights_are_downloaded(
    source: str, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repository: str, file: str) -> str:
        assert file != "model.safetensors"
        return str(named / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(ConfigError, match=r"these are weights of backbone '.*', and this one would train 'test_vit'"):
        find(source, backbone="test_vit")


def test_a_run_from_named_weights(named: Path, tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before: dict[str, torch.Tensor] = {}

    def look(self: Pretraining) -> None:
        before.update({name: value.clone() for name, value in self.method.encoder.state_dict().items()})

    monkeypatch.setattr(Pretraining, "on_fit_start", look)
    told: list[str] = []
    source, run = f"local-dir:{named}", tmp_path / "run"
    tiny_run(run, steps=2, log__checkpoint_every=1, labels=[], init_from=source, tell=told.append)
    assert all(torch.equal(before[name], value) for name, value in load_file(named / "model.safetensors").items())
    assert any("licence 'seer-license': non-commercial research only" in line for line in told)
    assert f"input has the mean and deviation of {source}" in told
    card = read_model(run)
    assert (card.init_from, card.license, card.stats.mean) == (source, "seer-license", (0.1, 0.2, 0.3))
    record = json.loads((run / "initial_weights.json").read_text())
    assert (record["license"], record["digest"]) == (
        "seer-license", digest((named / "model.safetensors").read_bytes()),
    )
    # Terms go along: into what starts from that run, and into what is given away.
    tiny_run(tmp_path / "next", steps=1, labels=[], init_from=str(run))
    assert read_model(tmp_path / "next").license == "seer-license"
    export(run, tmp_path / "shared")
    assert "- Licence 'seer-license': non-commercial research only" in (tmp_path / "shared" / "README.md").read_text()


def test_a_run_goes_on_when_its_source_is_gone(
    named: Path, tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    once.mkdir()
    for path in named.iterdir():
        (once / path.name).write_bytes(path.read_bytes())
    changes = {"steps": 2, "labels": [], "log__checkpoint_every": 1}
    whole = tmp_path / "whole"
    tiny_run(whole, init_from=f"local-dir:{once}", **changes)
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "_observe", lambda self, *args: setattr(self, "stop_requested", True))
        assert not tiny_run(cut, init_from=f"local-dir:{once}", **changes).finished
    for path in once.iterdir():
        path.unlink()
    assert tiny_run(cut, resume=True).finished
    one, other = load_file(whole / WEIGHTS), load_file(cut / WEIGHTS)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (read_model(cut).stats, read_model(cut).license) == (read_model(whole).stats, "seer-license")


def test_a_source_out_of_reach_leaves_no_run(tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repository: str, file: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(OutOfReachError, match=r"hub:ada/galaxies is not on this machine.*no network"):
        tiny_run(tmp_path / "run", init_from="hub:ada/galaxies")
    with pytest.raises(DataError, match=r"has no config\.json and no model.safetensors"):
        tiny_run(tmp_path / "run", init_from=f"local-dir:{tmp_path}")
    assert not (tmp_path / "run").exists()
