"""Weights of others by name. There is no network here: the hub is a folder, and one test has none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file

from sciencessl.backbones.named_weights import SEER_SIZES, find_named, is_named, portable_name
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError, DataError, MissingExtraError, OutOfReachError, RegistryError
from sciencessl.spec import FieldSpec

CONFIG = {
    "architecture": "test_resnet", "num_classes": 0,
    "pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
}
Asked = list[tuple[str, str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Folder of a model on the hub."""
    folder = tmp_path / "repository"
    folder.mkdir()
    save_file(build_backbone("test_resnet", 3, 7).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: SEER-license\n---\n# A model\n")
    return folder


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is asked of a hub that gives files of the folder for any repository but `nobody/nothing`."""
    asked: Asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        if name == "nobody/nothing":
            # Made without arguments, which differ from version to version.
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        if not (repository / file).is_file():
            raise EntryNotFoundError.__new__(EntryNotFoundError)
        return str(repository / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    return asked


def test_a_model_of_the_hub_is_known_by_its_files(hub: Asked, repository: Path) -> None:
    found = find_named("hub:ada/galaxies")
    assert (found.name, found.backbone, found.file) == (
        "ada-galaxies", "test_resnet", repository / "model.safetensors",
    )
    assert (found.size, found.mean, found.std, found.license) == (
        96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "seer-license",
    )
    assert {name for name, _ in hub} == {"ada/galaxies"}
    assert sorted(file for _, file in hub) == ["README.md", "config.json", "model.safetensors"]


def test_a_licence_in_the_configuration_needs_no_readme(hub: Asked, repository: Path) -> None:
    config = {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], "license": "mit"}}  # type: ignore[dict-item]
    (repository / "config.json").write_text(json.dumps(config))
    assert find_named("hub:ada/galaxies").license == "mit"
    assert ("ada/galaxies", "README.md") not in hub


@pytest.mark.parametrize("card", ["", "no front matter", "---\nlicense: [\n---\n", "---\njust words\n---\n"])
def test_a_model_card_without_a_licence_is_none_on_record(hub: Asked, repository: Path, card: str) -> None:
    (repository / "README.md").write_text(card)
    assert find_named("hub:ada/galaxies").license == ""
    (repository / "README.md").unlink()
    assert find_named("hub:ada/galaxies").license == ""


@pytest.mark.parametrize("size", sorted(SEER_SIZES))
def test_seer_by_its_size_is_a_tag_of_timm(size: str, hub: Asked, repository: Path) -> None:
    tuned = find_named(f"seer:{size}_ft_in1k")
    assert (tuned.backbone, tuned.name, tuned.size) == (SEER_SIZES[size], f"{SEER_SIZES[size]}.seer_ft_in1k", 384)
    assert tuned.license == "seer-license"
    assert hub == [(f"timm/{SEER_SIZES[size]}.seer_ft_in1k", "model.safetensors")]
    if size != "256gf":
        plain = find_named(f"seer:{size}")
        assert (plain.backbone, plain.size, plain.source) == (SEER_SIZES[size], 224, f"seer:{size}")
        # ImageNet's, which SEER was trained with. Source: vissl, regnet10B.yaml.
        assert (plain.mean, plain.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert hub[-1] == (f"timm/{SEER_SIZES[size]}.seer", "model.safetensors")


def test_every_seer_tag_of_timm_has_a_name(hub: Asked) -> None:
    tags = {name for name in timm.list_pretrained("regnety_*") if ".seer" in name}
    ours = {f"{size}{end}" for size in SEER_SIZES for end in ("", "_ft_in1k")} - {"256gf"}
    assert {find_named(f"seer:{name}").name for name in ours} == tags


def test_seer_that_timm_lacks_is_said_to_be_lacking(hub: Asked) -> None:
    with pytest.raises(RegistryError, match=r"seer:256gf_ft_in1k\. regnety_2560.seer is not in timm; .*@FILE"):
        find_named("seer:256gf")
    with pytest.raises(RegistryError, match=r"no SEER encoder named '32'\. Did you mean '32gf'\?.*10b\) is not in"):
        find_named("seer:32")
    assert not hub


def test_a_file_takes_the_place_of_a_download(hub: Asked, repository: Path) -> None:
    file = repository / "model.safetensors"
    tagged = find_named(f"timm:regnety_320.seer@{file}")
    assert (tagged.file, tagged.name, tagged.license) == (file, "regnety_320.seer@model", "seer-license")
    # A file under the bare name need not be what timm has by default, which is SEER's too.
    assert find_named(f"timm:regnety_320@{file}").license == ""
    assert find_named(f"seer:32gf@{file}").name == tagged.name
    assert not hub
    with pytest.raises(DataError, match=r"weight file 'nothing\.pt' does not exist"):
        find_named("timm:regnety_320@nothing.pt")


def test_a_folder_serves_as_a_repository(repository: Path) -> None:
    found = find_named(f"local-dir:{repository}")
    assert (found.name, found.backbone, found.size, found.license) == (
        "repository", "test_resnet", 96, "seer-license",
    )
    (repository / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"repository has no model.safetensors. Expected a folder with config.json"):
        find_named(f"local-dir:{repository}")


def test_what_is_cached_asks_nobody(hub: Asked, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(repository / file))
    assert find_named("hub:ada/galaxies").file == repository / "model.safetensors"
    assert not hub


def test_without_a_network_it_says_how_to_place_the_file_by_hand(hub: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, file: str) -> str:
        raise LocalEntryNotFoundError("Cannot reach the Hub.\nMore words.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(OutOfReachError) as caught:
        find_named("seer:64gf")
    assert str(caught.value) == (
        "seer:64gf is not on this machine, and could not be fetched from the Hugging Face Hub: Cannot reach the Hub. "
        "By hand: https://huggingface.co/timm/regnety_640.seer/resolve/main/model.safetensors on a machine with a "
        "network, copied here and given as timm:regnety_640.seer@FILE."
    )
    with pytest.raises(OutOfReachError, match=r"`hf download ada/galaxies --local-dir FOLDER` .* as local-dir:FOLDER"):
        find_named("hub:ada/galaxies")


def test_without_huggingface_hub_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="seer:32gf: finding it needs huggingface_hub; pip install"):
        find_named("seer:32gf")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("hub:galaxies", ConfigError, "expected hub:OWNER/NAME"),
        ("hub:nobody/nothing", DataError, "no repository 'nobody/nothing' that this machine may read"),
        ("timm:test_resnt", RegistryError, "Did you mean 'test_resnet'"),
        ("timm:test_resnet.nope", RegistryError, r"Invalid pretrained tag.*timm has test_resnet.r160_in1k"),
        ("timm:resnet200", DataError, r"timm has no weights of it. Give them as a file, timm:resnet200@FILE"),
    ],
)
def test_names_that_lead_nowhere(name: str, kind: type[Exception], message: str, hub: Asked) -> None:
    with pytest.raises(kind, match=message):
        find_named(name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "describes no model of timm's .JSONDecodeError"),
        ("[1]", "describes no model of timm's"),
        ('{"model_type": "bert"}', "describes no model of timm's .KeyError: 'architecture'"),
        (json.dumps({**CONFIG, "model_args": {"global_pool": "max"}}), "was built with .*'global_pool': 'max'"),
    ],
)
def test_repositories_that_hold_no_stock_model(config: str, message: str, hub: Asked, repository: Path) -> None:
    (repository / "config.json").write_text(config)
    with pytest.raises(DataError, match=f"hub:ada/galaxies: .*{message}"):
        find_named("hub:ada/galaxies")


def test_pickles_of_strangers_are_not_fetched(hub: Asked, repository: Path) -> None:
    (repository / "model.safetensors").rename(repository / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"ada/galaxies has no model.safetensors\. Only safetensors of timm models"):
        find_named("hub:ada/galaxies")


def test_weights_know_their_input_where_a_store_can_give_it(repository: Path) -> None:
    found = find_named(f"local-dir:{repository}")
    stats = found.stats(FieldSpec("bytes", ("r", "g", "b")))
    assert stats is not None
    assert (stats.mean, stats.std, stats.scale, stats.stretch) == (found.mean, found.std, (255.0,) * 3, "linear")
    assert found.stats(FieldSpec("bytes", ("g",))) is None
    assert found.stats(FieldSpec("array", ("r", "g", "b"), "float32", shape=(8, 8))) is None


@pytest.mark.parametrize(
    ("source", "shared"),
    [
        ("", ""), ("/home/ada/runs/old", "old"), ("hub:ada/galaxies", "hub:ada/galaxies"), ("seer:32gf", "seer:32gf"),
        ("timm:resnet50@/home/ada/w.pt", "timm:resnet50@w.pt"), ("local-dir:/home/ada/model", "local-dir:model"),
    ],
)
def test_a_name_travels_without_folders(source: str, shared: str) -> None:
    assert portable_name(source) == shared
    assert is_named(source) == (":" in source)


def test_timm_reads_the_same_weights(repository: Path) -> None:
    found = find_named(f"local-dir:{repository}")
    ours = build_backbone(found.backbone, 3, 0, found.file).eval()
    theirs: Any = timm.create_model(f"local-dir:{repository}", pretrained=True).eval()
    batch = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(batch), theirs(batch))


