"""Nuclei of a real H&E crop: tuned or frozen, a network that never learned tells more than the commonest class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.cell_counts import read_mask
from sciencessl.evaluate import dense
from sciencessl.evaluate.dense import Segmented, run_dense
from sciencessl.evaluate.dense_masks import read_masks
from sciencessl.evaluate.encoders import fresh_module
from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.tasks import load_task
from sciencessl.registry import load_domain
from sciencessl.spec import TransferTask
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from tests.evaluate.discs import disc_card, mask_table, png

TILE = 125


@pytest.fixture(scope="module")
def store(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Tiles of 125 px, enlarged to see nuclei on a coarse map; the right third is tested on, a row of it is a unit."""
    folder = shared_data / "pathology" / "histolytics"
    image = cv2.imread(str(folder / "hgsc_nest.jpg"))[..., ::-1]
    nuclei = (read_mask(folder / "hgsc_nest_type_mask.npz") > 0).astype(np.uint8)
    tiles = [(y, x) for y in range(0, 1500, TILE) for x in range(0, 1500, TILE)]
    path = tmp_path_factory.mktemp("real") / "nuclei.zarr"
    spec = load_domain("pathology")
    header = StoreHeader("pathology", "images", spec.fields, 1, len(tiles), {"side": TILE}, "plan", "config")
    create_store(path, header, 4_000)
    samples = [
        PreparedSample(f"{y}_{x}", "test" if x >= 1000 else "train",
                       {spec.primary: png(image[y : y + TILE, x : x + TILE, ::-1])}, {"group": f"{y}_{x >= 1000}"})
        for y, x in tiles
    ]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    mask_table(path, {f"{y}_{x}": png(nuclei[y : y + TILE, x : x + TILE]) for y, x in tiles}, ("background", "nucleus"))
    return Store(path)


@pytest.mark.real_data
def test_nuclei_are_told_better_than_by_the_commonest_class(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "few_units", lambda labels, units: True)
    task = TransferTask("nuclei", "mask", kind="dense")
    data = load_task(store, task)
    train, test = (
        Segmented(store, index, read_masks(store, task, data.classes, index), labels, units)
        for index, labels, units in ((data.train, data.train_labels, data.train_units),
                                     (data.test, data.test_labels, data.test_units))
    )
    chance = float(next(iter(dense.segmentation_notes(data))).split("mean IoU ")[1].split(",")[0])
    card = replace(disc_card(), views={**disc_card().views, "size": 96})
    frozen, tuned = (run_dense(fresh_module(card, 0), card, train, test, training, 0).metrics["mean_iou"]
                     for training in (Training(50).head_only, Training(30)))
    print(f"chance {chance:.3f}, frozen {frozen:.3f}, tuned {tuned:.3f}")
    assert frozen > chance + 0.03
    assert tuned > chance + 0.03
