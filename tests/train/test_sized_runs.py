"""Runs of encoders that are built for one image size: trained, told of in the card, rebuilt alike afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from sciencessl.errors import ConfigError
from sciencessl.evaluate.average import average
from sciencessl.evaluate.dense_head import dilated
from sciencessl.evaluate.encoders import compute_embeddings, fresh_module, random_encoder, run_encoder
from sciencessl.evaluate.export import export
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.evaluate.transfer import transfer
from sciencessl.store.reader import Store
from sciencessl.train.folder import read_metrics, read_model

SWIN = "swin_tiny_patch4_window7_224"
MULTI_CROP = {"views__small_views": 2, "views__small_size": 16}


@pytest.fixture(scope="module")
def run(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BYOL on a small ViT at 32 pixels, with small crops of 16."""
    out = tmp_path_factory.mktemp("sized") / "run"
    assert tiny_run(out, backbone="test_vit", labels=None, steps=3, **MULTI_CROP).finished
    return out


def features(module: torch.nn.Module, size: int = 32) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return found


def test_the_card_has_the_size_and_every_encoder_is_built_by_it(run: Path, tiny_store: Path) -> None:
    card = read_model(run)
    assert card.size == 32
    assert all(np.isfinite(row["loss"]) for row in read_metrics(run))
    encoder = run_encoder(run)
    assert encoder.module.pos_embed.shape[1] == 5
    for module in (random_encoder(card, 0).module, fresh_module(card, 0), dilated(encoder.module, card)):
        assert {n: v.shape for n, v in module.state_dict().items()} == {
            n: v.shape for n, v in encoder.module.state_dict().items()}
    assert compute_embeddings(encoder, Store(tiny_store), np.arange(4), workers=0).shape == (4, card.features)


def test_stock_timm_loads_the_export_at_its_size_and_so_do_we(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path / "out").format == "timm"
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    wanted = features(run_encoder(run).module)
    torch.testing.assert_close(features(model), wanted, atol=1e-5, rtol=1e-5)
    found = find_encoder(f"local-dir:{tmp_path / 'out'}", Store(tiny_store))
    assert (found.card.size, found.card.views["size"]) == (32, 32)
    torch.testing.assert_close(features(found.module), wanted, atol=1e-5, rtol=1e-5)


def test_transfer_trains_and_draws_networks_of_the_size(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    result = transfer([run], tiny_store, tmp_path / "out", task="morphology", labels=("12",), subsets=1, workers=0,
                      random_encoders=1, arms=("frozen", "finetune", "scratch", "random"), max_steps=1,
                      finetune_subsets=1, tell=lambda line: None)
    assert [row.arm for row in result.rows] == ["frozen", "finetune", "scratch", "random"]
    kept = run_encoder(tmp_path / "out" / "models" / "finetune-run")
    assert (kept.card.size, kept.module.pos_embed.shape[1]) == (32, 5)


def test_a_mean_of_sized_encoders_is_of_that_size(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "twin")
    average([run, tmp_path / "twin"], tmp_path / "mean")
    assert read_model(tmp_path / "mean").size == 32
    torch.testing.assert_close(features(run_encoder(tmp_path / "mean").module), features(run_encoder(run).module))


def test_a_run_at_another_size_starts_from_resampled_positions(run: Path, tiny_run: Any, tmp_path: Path) -> None:
    tiny_run(tmp_path / "next", backbone="test_vit", labels=None, steps=1, views__size=48, init_from=str(run))
    assert read_model(tmp_path / "next").size == 48
    assert run_encoder(tmp_path / "next").module.pos_embed.shape[1] == 10


@pytest.mark.slow
def test_a_swin_trains_at_the_size_of_its_views(tiny_run: Any, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", backbone=SWIN, labels=None, steps=1, **MULTI_CROP)
    assert read_model(tmp_path / "run").size == 32
    assert export(tmp_path / "run", tmp_path / "out").format == "timm"


HEADS = {"options__hidden": None, "options__out": None}


def test_mae_trains_a_vit_from_its_preset_with_labels(tiny_run: Any, tmp_path: Path) -> None:
    assert tiny_run(tmp_path / "run", method="mae", backbone="test_vit", steps=3, **HEADS).finished
    card, rows = read_model(tmp_path / "run"), read_metrics(tmp_path / "run")
    assert (card.method, card.size, card.views["large_views"], card.views["plain"]) == ("mae", 32, 1, True)
    assert all(0 < row["pair_loss"] < 10 and row["label_loss"] > 0 for row in rows)
    with pytest.raises(ConfigError, match="a ResNet computes with whole images"):
        tiny_run(tmp_path / "other", method="mae", **HEADS)


def test_moby_trains_a_vit_that_drops_paths(tiny_run: Any, tmp_path: Path) -> None:
    found = tiny_run(tmp_path / "run", method="moby", backbone="test_vit", steps=3, options__queue=16)
    assert found.finished
    assert all(np.isfinite(row["negatives"]) for row in read_metrics(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"does not take drop path 0\.2"):
        tiny_run(tmp_path / "other", method="moby", backbone="efficientvit_m0")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views__size": 40}, r"16 x 16 pixels, and 40 is no multiple of 16\. Set --views.size 32 or 48"),
        ({"views__small_views": 1, "views__small_size": 24}, r"24 is no multiple .* --views.small-size 16 or 32"),
        ({"backbone": "test_vit_relpos", **MULTI_CROP}, r"cannot take views of 16 x 16 .* --views.small-views 0"),
    ],
)
def test_views_that_do_not_fit_are_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, tiny_run: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_run(tmp_path / "run", **{"backbone": "test_vit", **changes})
    assert not (tmp_path / "run").exists()


def test_cards_written_before_sizes_are_read_as_they_were(run: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "exported" / "model.json"
    values = json.loads(path.read_text())
    del values["size"]
    path.write_text(json.dumps(values))
    assert read_model(tmp_path / "old").size == 0
