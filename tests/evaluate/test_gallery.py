"""The samples in the report: the very views of training, class names, and stores that lack classes or test samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.data.loader import BatchStream, Decoder
from sciencessl.data.order import Order
from sciencessl.evaluate import gallery
from sciencessl.evaluate.gallery import UNLABELLED, class_names, draw_samples, embedding_section, view_strips
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec, InputStats
from sciencessl.store.display import fit_display
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.train.folder import ModelCard, StoreRecord, write_model
from sciencessl.views.sheet import GAP

GALAXY = load_domain("galaxy")
VIEWS = {"size": 16, "area": [0.3, 0.85]}
StoreFactory = Callable[..., Store]


@pytest.fixture
def make(tmp_path: Path) -> StoreFactory:
    """A store of float stamps in two bands, n train and then m test samples."""

    def build(train: int, test: int, classes: list[str | None] | None = None) -> Store:
        path = tmp_path / "flux.zarr"
        fields = {"image": FieldSpec("array", ("g", "r"), "float32", shape=(20, 20))}
        header = StoreHeader("galaxy", "images", fields, 1, train + test, {}, "p", "c")
        create_store(path, header, 50_000)
        rng = np.random.default_rng(0)
        images = rng.normal(size=(train + test, 2, 20, 20)).astype("f4")
        samples = [
            PreparedSample(f"s{i}", "train" if i < train else "test", {"image": image}, {})
            for i, image in enumerate(images)
        ]
        write_row(path, header, 0, samples, [], "inputs")
        seal(path, header)
        if classes:
            write_table(path, "labels", pa.table({"id": [f"s{i}" for i in range(len(classes))], "class": classes}))
        return Store(path)

    return build


@pytest.fixture
def encoder(tmp_path: Path) -> Callable[[Store], Path]:
    def build(store: Store) -> Path:
        stats = InputStats((0.0, 0.0), (1.0, 1.0), (1.0, 1.0), "asinh")
        card = ModelCard("galaxy", "byol", "regnety_002", "image", ("g", "r"), 368, stats, VIEWS, 1, 8, 0,
                         (StoreRecord(str(store.path), store.digest),))
        write_model(tmp_path / "run", card, build_backbone("regnety_002", 2, 0))
        return tmp_path / "run"

    return build


@pytest.mark.parametrize(
    ("more", "count", "columns"),
    [({}, 2, 9), ({"large_views": 1}, 1, 8), ({"large_views": 3}, 3, 8),
     ({"instances": 4, "instance_size": 9}, 10, 11)],
)
def test_the_views_are_those_that_training_made(
    more: dict[str, int], count: int, columns: int, make: StoreFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seed, seen = make(12, 0), 5, []
    monkeypatch.setattr(gallery, "tile_picture", lambda images, px, alt: seen.append((alt.partition(":")[0], images)))
    strips = view_strips(store, GALAXY, {**VIEWS, **more}, seed, tmp_path)
    assert len(strips) == len(seen) == 12
    assert cv2.imread(str(tmp_path / "views.png")).shape[1] == columns * (128 + GAP) + GAP
    settings = GALAXY.train_options(size=16, area=(0.3, 0.85), **more)
    stream = BatchStream(
        Decoder(store, GALAXY.decode), Order(12, seed, 12, slots=1), store.split("train"), GALAXY.views, settings, {},
        ["image"],
    )
    batch = stream.batch(0)
    shown, display = dict(seen), fit_display(store)
    for slot, index in enumerate(batch.index):
        assert len(shown[store.ids[index]]) == 1 + count
        for number in range(count):
            view = batch.views[number]["image"][slot].numpy().transpose(1, 2, 0)
            expected = display(Sample({"image": np.ascontiguousarray(view)}))
            np.testing.assert_array_equal(shown[store.ids[index]][number + 1], expected)


def test_classes_are_those_of_the_task(make: StoreFactory) -> None:
    store = make(4, 0, ["spiral-clockwise", "elliptical", "merger", None])
    column, names = class_names(store, GALAXY, "morphology")
    where = [names[store.ids.index(f"s{i}")] for i in range(4)]
    assert (column, where) == ("class", ["spiral", "elliptical", UNLABELLED, UNLABELLED])
    assert class_names(store, GALAXY, "spiral-edge-on")[1][store.ids.index("s1")] == UNLABELLED
    assert class_names(store, GALAXY, "no such task")[1].tolist() == names.tolist()


def test_without_a_class_column_nothing_is_coloured(make: StoreFactory) -> None:
    column, names = class_names(make(3, 0), GALAXY)
    assert (column, set(names)) == ("", {UNLABELLED})


@pytest.mark.parametrize(
    ("train", "test", "samples", "expected"), [(30, 20, 20, (5, 15)), (30, 2, 20, (2, 18)), (4, 20, 20, (16, 4)),
                                               (9, 0, 20, (0, 9)), (30, 20, 100, (20, 30))]
)
def test_samples_are_drawn_from_both_splits(
    make: StoreFactory, train: int, test: int, samples: int, expected: tuple[int, int]
) -> None:
    store = make(train, test)
    drawn = draw_samples(store, samples)
    assert tuple(map(len, drawn)) == expected
    for index, split in zip(drawn, ("test", "train"), strict=True):
        assert len(set(index.tolist())) == len(index)
        assert set(index.tolist()) <= set(store.split(split).all().tolist())


def test_without_test_samples_queries_are_training_samples_but_never_their_own_neighbours(
    make: StoreFactory, encoder: Callable[[Store], Path], tmp_path: Path
) -> None:
    store = make(12, 0)
    section = embedding_section(encoder(store), store, GALAXY, "", 100, tmp_path)
    assert section is not None
    assert (section.train, section.test, section.from_test, section.column) == (12, 0, False, "")
    assert section.agreement is None
    for row in section.rows:
        assert row.query.id not in [near.id for near in row.neighbours]
        similar = [near.similarity for near in row.neighbours]
        assert similar == sorted(similar, reverse=True)


def test_agreement_is_one_when_all_are_of_one_class(
    make: StoreFactory, encoder: Callable[[Store], Path], tmp_path: Path
) -> None:
    store = make(10, 3, ["elliptical"] * 13)
    section = embedding_section(encoder(store), store, GALAXY, "morphology", 100, tmp_path)
    assert section is not None
    assert (section.agreement, section.chance) == (1.0, 1.0)
    assert all(near.same for row in section.rows for near in row.neighbours)


def test_one_training_sample_is_no_gallery(
    make: StoreFactory, encoder: Callable[[Store], Path], tmp_path: Path
) -> None:
    store = make(1, 3)
    assert embedding_section(encoder(store), store, GALAXY, "", 100, tmp_path) is None
