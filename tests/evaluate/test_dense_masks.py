"""Label images of a store: values, names, ignored pixels, and what is no label image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.dense_masks import count_pixels, read_masks, value_names
from sciencessl.evaluate.tasks import load_task
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side
from tests.evaluate.discs import disc, disc_store, mask_table, png

TASK = TransferTask("discs", "mask", kind="dense")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disc_store(tmp_path_factory.mktemp("masks") / "discs.zarr").path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """A copy whose table may be replaced."""
    return Path(shutil.copytree(built, tmp_path / "discs.zarr"))


def _masks(count: int = 24) -> dict[str, np.ndarray]:
    return {f"g{i:03d}": disc(i)[1] for i in range(count)}


def test_pixels_are_counted_and_units_are_groups(built: Path) -> None:
    data = load_task(Store(built), TASK)
    assert (data.classes, data.task.unit, data.task.metric) == (("background", "disc"), "group", "mean_iou")
    assert data.train_targets is not None
    assert data.train_targets[:, 1].tolist() == [int(disc(int(name[1:]))[1].sum()) for name in data.train_ids]
    assert set(data.train_units) == {"p0", "p1", "p3", "p4", "p6", "p7"}  # patients, three tiles each
    assert set(data.train_labels) == {1}  # the rarest class that is there


def test_a_task_chooses_and_names_values_and_ignores_the_others(path: Path) -> None:
    masks = _masks()
    masks["g000"] = np.where(masks["g000"] == 1, 2, masks["g000"])
    mask_table(path, {name: png(mask) for name, mask in masks.items()}, ("background", "disc", "artefact"))
    store = Store(path)
    assert value_names(store, "mask") == ("background", "disc", "artefact")
    task = TransferTask("discs", "mask", {"disc": "light", "background": "dark"}, kind="dense")
    data = load_task(store, task)
    assert data.classes == ("dark", "light")
    read = read_masks(store, task, data.classes, data.train)[store.ids.index("g000")]
    assert set(np.unique(read)) == {0, 255}
    assert (read == 255).sum() == disc(0)[1].sum()


def test_values_without_names_are_called_by_their_numbers(path: Path) -> None:
    mask_table(path, {name: png(mask) for name, mask in _masks().items()}, ())
    assert load_task(Store(path), TASK).classes == ("0", "1")


def test_samples_without_a_judged_pixel_have_no_label(path: Path) -> None:
    masks: dict[str, bytes | None] = {name: png(mask) for name, mask in _masks().items()}
    masks |= {"g000": None, "g001": png(np.full((48, 48), 255, np.uint8))}
    del masks["g002"]
    mask_table(path, masks)
    ids = load_task(Store(path), TASK).train_ids.tolist()
    assert not {"g000", "g001", "g002"} & set(ids)
    assert len(ids) == 15


def test_a_class_that_only_the_test_shows_is_ignored_and_told(path: Path) -> None:
    masks = _masks()
    masks["g006"][:4] = 2  # of split=test
    mask_table(path, {name: png(mask) for name, mask in masks.items()}, ("background", "disc", "artefact"))
    data = load_task(Store(path), TASK)
    assert data.classes == ("background", "disc")
    assert data.dropped == {"artefact (its pixels; none in split=train)": 1}


def test_a_digest_tells_masks_with_equal_counts_apart(path: Path) -> None:
    store = Store(path)
    index = np.arange(len(store))
    before = read_masks(store, TASK, ("background", "disc"), index).digest
    mask_table(path, {name: png(mask[::-1]) for name, mask in _masks().items()})
    assert read_masks(Store(path), TASK, ("background", "disc"), index).digest != before


def test_what_is_no_label_image_is_refused(path: Path) -> None:
    for bad, words in ((b"no image", "has no image"), (png(np.zeros((4, 6), np.uint8)), r"has uint8 of shape \(4, 6\)"),
                       (png(np.zeros((4, 4, 3), np.uint8)), r"has uint8 of shape \(4, 4, 3\)")):
        mask_table(path, {"g000": bad})
        place = Store(path).ids.index("g000")
        with pytest.raises(DataError, match=rf"column 'mask' of .*at index {place} {words}; a label image is a square"):
            count_pixels(TASK, Side.of_splits(Store(path), "train"))
    with pytest.raises(DataError, match=r"holds 'p\d', expected label images"):
        load_task(Store(path), TransferTask("discs", "group", kind="dense"))


def test_one_class_is_not_enough(path: Path) -> None:
    mask_table(path, {f"g{i:03d}": png(np.zeros((8, 8), np.uint8)) for i in range(24)})
    with pytest.raises(DataError, match="lacks pixels of two classes in column 'mask'"):
        load_task(Store(path), TASK)


def test_a_task_of_label_images_reads_one_column() -> None:
    with pytest.raises(ConfigError, match="kind 'dense' reads one 'column' of label images"):
        TransferTask("discs", columns=("a", "b"), kind="dense")
