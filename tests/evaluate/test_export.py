"""`export`: what timm loads gives the run's features, the card and its numbers travel along, nothing is overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from sciencessl.backbones.norms import WORDS
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import RunError
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.export import CARD, TOLERANCE, export, export_text, shareable, timm_config
from sciencessl.registry import load_domain
from sciencessl.setting_groups import Norm
from sciencessl.spec import InputStats
from sciencessl.store.reader import Store
from sciencessl.train.folder import WEIGHTS, ModelCard, StoreRecord, read_model, write_model

RunFactory = Callable[..., Path]
FLUX = InputStats((0.1, 0.2, 0.3, 0.4, 0.5), (1.0, 2.0, 3.0, 4.0, 5.0), (0.01,) * 5, "asinh")


def flux_run(path: Path, card: ModelCard) -> Path:
    """An encoder of five float bands."""
    bands = replace(card, channels=tuple("grizy"), stats=FLUX)
    write_model(path, bands, build_backbone(card.backbone, 5, 3))
    return path


def random_batch(channels: int, size: int = 32) -> torch.Tensor:
    return torch.randn((3, channels, size, size), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def features(module: torch.nn.Module, batch: torch.Tensor) -> np.ndarray:
    return np.asarray(module(batch))


@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", 32), ("test_vit", 160), ("test_convnext", 64)])
def test_timm_gives_the_features_of_the_run(
    backbone: str, size: int, survey: Store, make_run: RunFactory, tmp_path: Path
) -> None:
    views = asdict(load_domain("galaxy").train_options(size=size))
    made = make_run(tmp_path / "run", survey, backbone=backbone, views=views)
    before = torch.get_rng_state()
    result = export(made, tmp_path / "out")
    assert torch.equal(before, torch.get_rng_state())
    assert (result.format, result.reason, result.features) == ("timm", "", read_model(made).features)
    assert result.difference is not None
    assert result.difference <= TOLERANCE
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    batch = random_batch(3, size)
    np.testing.assert_allclose(features(model, batch), features(run_encoder(made).module, batch), atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors", CARD,
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_a_new_classifier_stands_on_the_same_encoder(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7).eval()
    batch = random_batch(3)
    with torch.inference_mode():
        pooled = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    np.testing.assert_allclose(pooled, features(run_encoder(run).module, batch), atol=1e-5)
    assert features(model, batch).shape == (3, 7)


def test_five_bands_of_flux(run: Path, tmp_path: Path) -> None:
    bands = flux_run(tmp_path / "bands", read_model(run))
    assert export(bands, tmp_path / "out").format == "timm"
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    np.testing.assert_array_equal(
        features(model, random_batch(5)), features(timm_of(bands), random_batch(5))
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert config["input_size"] == [5, 32, 32]
    # timm would apply them to images in [0, 1], which flux is not.
    assert (config["mean"], config["std"]) == ([0.0] * 5, [1.0] * 5)


def timm_of(run: Path) -> torch.nn.Module:
    card = read_model(run)
    return build_backbone(card.backbone, len(card.channels), 0, run / WEIGHTS).eval()


def test_mean_and_std_are_told_to_timm_for_8_bit_images_only(run: Path) -> None:
    card, domain = read_model(run), load_domain("galaxy")
    stock = {"input_size": (3, 224, 224), "first_conv": "conv1", "classifier": "fc"}

    def told(card: ModelCard = card, domain: Any = domain) -> list[float]:
        mean: list[float] = timm_config(card, domain, stock)["pretrained_cfg"]["mean"]
        return mean

    assert told() == [0.2, 0.2, 0.2]
    assert told(replace(card, stats=replace(card.stats, stretch="asinh"))) == [0.0] * 3
    assert told(replace(card, stats=replace(card.stats, scale=(65535.0,) * 3))) == [0.0] * 3
    assert told(domain=replace(domain, to_input="other:function")) == [0.0] * 3


def test_size_and_window_are_those_of_the_evaluation_view(run: Path) -> None:
    card, domain = read_model(run), load_domain("galaxy")
    stock = {"input_size": (3, 224, 192), "fixed_input_size": True, "first_conv": "conv1", "classifier": "fc"}
    config = timm_config(card, domain, stock)["pretrained_cfg"]
    assert (config["input_size"], config["crop_pct"]) == ([3, 32, 32], card.views["evaluation_window"])
    bare = timm_config(replace(card, views={}), domain, stock)["pretrained_cfg"]
    assert (bare["input_size"], bare["crop_pct"], bare["first_conv"]) == ([3, 224, 192], 0.875, "conv1")
    assert bare["fixed_input_size"] is True


def test_the_card_travels_without_folders_of_its_maker(survey: Store, make_run: RunFactory, tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", survey, init_from="/home/ada/runs/old", method="/home/ada/own.py:Own",
                    label_rows={"bar": 12}, label_columns=("bar_yes", "bar_no"))  # fmt: skip
    card = replace(read_model(made), sampling="draws of /home/ada/gz.zarr",
                   stores=(StoreRecord("/home/ada/gz.zarr", "ab12"),))
    write_model(made, card, timm_of(made))
    export(made, tmp_path / "out")
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors")
    assert "/home/ada" not in written
    saved = json.loads((tmp_path / "out" / CARD).read_text())
    assert (saved["format"], saved["timm"], saved["difference"] <= TOLERANCE) == ("timm", timm.__version__, True)
    assert saved["card"] == json.loads(json.dumps(asdict(shareable(read_model(made)))))
    assert (saved["card"]["stores"][0]["path"], saved["card"]["init_from"], saved["card"]["method"]) == (
        "gz.zarr", "old", "own.py:Own",
    )  # fmt: skip
    assert any("bar (12 rows)" in sentence for sentence in saved["pretraining"])


@pytest.mark.parametrize("trouble", ["refuses", "other weights", "other width"])
def test_an_encoder_that_stock_timm_does_not_give_back_is_written_in_our_format(
    trouble: str, survey: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def stock(name: str, *args: Any, **kwargs: Any) -> Any:
        if not name.startswith("local-dir:"):
            return create(name, *args, **kwargs)
        if trouble == "refuses":
            raise RuntimeError("Unknown model (test_resnet)")
        return create("test_resnet", num_classes=0 if trouble == "other weights" else 5)

    monkeypatch.setattr(timm, "create_model", stock)
    result = export(run, tmp_path / "out")
    words = {"refuses": "cannot load it (RuntimeError: Unknown model", "other weights": "features that differ by",
             "other width": "gives (4, 5) features"}  # fmt: skip
    assert result.format == "sciencessl"
    assert words[trouble] in result.reason
    text = export_text(result)
    assert words[trouble] in text
    assert f"sciencessl embed {tmp_path / 'out'} --data STORE" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "exported", CARD}
    index = np.arange(8)
    ours, theirs = (compute_embeddings(run_encoder(path), survey, index, workers=0) for path in (tmp_path / "out", run))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("norm", ["group_ws", "none"])
def test_replaced_norms_are_no_stock_architecture(
    norm: Norm, survey: Store, make_run: RunFactory, tmp_path: Path
) -> None:
    made = make_run(tmp_path / "run", survey, norm=norm)
    write_model(made, read_model(made), build_backbone("test_resnet", 3, 0, norm=norm))
    result = export(made, tmp_path / "out")
    assert result.format == "sciencessl"
    assert result.reason == f"it has {WORDS[norm]}, as no test_resnet of timm's has"
    assert f"test_resnet ({WORDS[norm]}), pretrained with byol" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / CARD).read_text())["card"]["norm"] == norm
    ours, theirs = (run_encoder(path).module for path in (tmp_path / "out", made))
    np.testing.assert_array_equal(features(ours, random_batch(3)), features(theirs, random_batch(3)))


def test_only_an_earlier_export_is_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(run, out)  # an empty folder is no obstacle
    (out / "stale.txt").touch()
    with pytest.raises(RunError, match=r"out holds an export already\. --overwrite replaces it, or choose another"):
        export(run, out)
    assert (out / "stale.txt").exists()
    export(run, out, overwrite=True)
    assert not (out / "stale.txt").exists()
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"not empty and holds no earlier export \(no sciencessl.json\)"):
            export(run, thesis, overwrite)
    with pytest.raises(RunError, match="is a file; choose another --out"):
        export(run, thesis / "thesis.tex")
    assert (thesis / "thesis.tex").read_text() == "years of work"


def test_a_failure_leaves_no_folder_behind(
    run: Path, survey: Store, make_run: RunFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="It is no run"):
        export(tmp_path / "none", tmp_path / "out")
    made = make_run(tmp_path / "run", survey)
    broken: Any = build_backbone("test_resnet", 3, 0)
    torch.nn.init.constant_(next(broken.parameters()), float("nan"))
    write_model(made, read_model(made), broken)
    with pytest.raises(RunError, match="encoder of run gives features that are not finite"):
        export(made, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_folder_may_be_nested_or_the_one_we_are_in(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(run, tmp_path / "a" / "b").format == "timm"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(run, ".")
    assert (tmp_path / "here" / "README.md").read_text().startswith("# here\n")


def test_others_may_read_what_is_written(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_the_text_says_how_to_load_it(run: Path, tmp_path: Path) -> None:
    text = export_text(export(run, tmp_path / "out"))
    assert f'timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True)' in text
    assert str(tmp_path / "out" / "README.md") in text
