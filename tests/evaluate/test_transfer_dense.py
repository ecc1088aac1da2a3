"""Segmentation through `transfer`: arms, notes, resume, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError
from sciencessl.evaluate import dense
from sciencessl.evaluate.report_words import few_label_sentences
from sciencessl.evaluate.results import TransferEstimate, TransferResult
from sciencessl.evaluate.tables import estimate_text
from sciencessl.evaluate.transfer import transfer
from sciencessl.train.folder import write_model
from tests.evaluate.discs import disc, disc_card, disc_store, mask_table, png

ARMS = ("frozen", "finetune", "scratch", "random")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a run and a task; one class of the label images is in no test tile."""
    folder = tmp_path_factory.mktemp("dense")
    path = disc_store(folder / "discs.zarr").path
    masks = {f"g{i:03d}": disc(i)[1] for i in range(24)}
    masks["g000"][:6, :6] = 2
    mask_table(path, {name: png(mask) for name, mask in masks.items()}, ("background", "disc", "artefact"))
    write_model(folder / "run", disc_card(), build_backbone("test_resnet", 3, 0))
    (folder / "discs.yaml").write_text("name: discs\nkind: dense\ncolumn: mask\nbudgets: [6, all]\n")
    return folder


def _transfer(place: Path, out: Path, **changes: Any) -> TransferResult | TransferEstimate:
    values: dict[str, Any] = {"task": str(place / "discs.yaml"), "arms": ARMS, "random_encoders": 1, "workers": 0,
                              "max_steps": 2, "finetune_subsets": 2, "tell": lambda line: None}
    return transfer([place / "run"], place / "discs.zarr", out, **{**values, **changes})


@pytest.fixture(scope="module")
def result(place: Path) -> TransferResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "few_units", lambda labels, units: True)
        found = _transfer(place, place / "out")
    assert isinstance(found, TransferResult)
    return found


def test_every_arm_has_its_curve_and_all_train_on_the_first_subsets(result: TransferResult) -> None:
    assert [(row.arm, row.n_labels, row.subsets) for row in result.rows] == [
        (arm, n, s) for arm in ARMS for n, s in ((6, 2), (18, 1))]
    assert result.fits == 4 * 3
    assert result.metric == "mean_iou"
    assert all(0 <= row.score <= 1 and row.low <= row.score <= row.high for row in result.rows)
    assert result.rows[0].baseline == "random"
    assert [(end.arm, end.baseline_arm) for end in result.endpoints] == [("frozen", "random"), ("finetune", "scratch")]


def test_a_class_that_the_test_lacks_is_told_and_left_out(result: TransferResult) -> None:
    told = "\n".join(result.notes)
    assert "the test has no pixel of 'artefact'" in told
    assert "chance: mean IoU 0." in told
    assert "of calling every pixel 'background'" in told
    assert np.isnan(result.rows[0].metrics["iou artefact"])
    assert result.rows[0].metrics["mean_iou"] == pytest.approx(
        np.mean([result.rows[0].metrics[f"iou {name}"] for name in ("background", "disc")]), abs=1e-4)


def test_a_second_call_computes_nothing_and_a_changed_label_image_everything(
    result: TransferResult, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "few_units", lambda labels, units: True)
    again = _transfer(place, place / "out")
    assert isinstance(again, TransferResult)
    assert again.fits == 0
    assert [row.score for row in again.rows] == [row.score for row in result.rows]
    some = next((place / "out" / "fits").iterdir())
    some.write_bytes(some.read_bytes()[:100])  # as after a crash
    once = _transfer(place, place / "out")
    assert isinstance(once, TransferResult)
    assert once.fits == 1


def test_a_dry_run_times_a_step_of_each_arm(place: Path, tmp_path: Path) -> None:
    found = _transfer(place, tmp_path / "dry", dry_run=True)
    assert isinstance(found, TransferEstimate)
    assert found.embeddings == 0
    assert all(arm.hours > 0 for arm in found.arms)
    assert "finetune" in estimate_text(found)


def test_the_report_says_what_was_asked(result: TransferResult) -> None:
    text = " ".join(few_label_sentences(result))
    assert "tells pixels of background, disc and artefact apart" in text
    assert "mean IoU" in text


def test_arms_that_segmentation_lacks_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kind 'dense'; arm 'knn' is for .* --arms frozen finetune scratch random"):
        _transfer(place, tmp_path, arms=("knn",))
    with pytest.raises(ConfigError, match="features without an encoder have no weights to train"):
        transfer(["baseline:colour-histogram"], place / "discs.zarr", tmp_path, task=str(place / "discs.yaml"))


def test_units_are_drawn_whole(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "few_units", lambda labels, units: True)
    found = _transfer(place, tmp_path, arms=("frozen",), labels=("2 groups",), max_steps=1)
    assert isinstance(found, TransferResult)
    assert [row.n_labels for row in found.rows] == [6]
