from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.data.loader import Decoder
from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, RegistryError
from sciencessl.evaluate.colour_histogram import COLOUR_HISTOGRAM, colour_histogram, colour_histograms
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.encoders import compute_embeddings
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.rank import rank
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.transfer import transfer
from sciencessl.registry import load_domain
from sciencessl.spec import FieldSpec
from sciencessl.store.display import fit_display
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row


def test_shares_of_a_picture_worked_by_hand() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0] = (15, 16, 255)  # the last value of a bin, the first of the next, and the last of all
    picture[0, 1] = (16, 16, 0)
    found = colour_histogram(picture).reshape(3, 16)
    assert (found[0, 0], found[0, 1]) == (0.75, 0.25)
    assert (found[1, 0], found[1, 1]) == (0.5, 0.5)
    assert (found[2, 0], found[2, 15]) == (0.75, 0.25)
    assert found.sum() == 3


def test_where_a_pixel_lies_does_not_matter_and_size_does_not() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (12, 7, 3), dtype=np.uint8)
    shuffled = rng.permutation(picture.reshape(-1, 3)).reshape(7, 12, 3)
    larger = np.kron(picture, np.ones((3, 3, 1), np.uint8))
    np.testing.assert_array_equal(colour_histogram(shuffled), colour_histogram(picture))
    np.testing.assert_allclose(colour_histogram(larger), colour_histogram(picture), rtol=1e-6)


def test_it_equals_another_library_on_whole_samples_of_a_store(survey: Store) -> None:
    index = np.array([5, 0, 17])
    found = compute_embeddings(find_encoder(COLOUR_HISTOGRAM, survey), survey, index, workers=0)
    for sample, row in zip(Decoder(survey, load_domain("galaxy").decode)(index), found, strict=True):
        image = sample.fields["image"]
        theirs = [cv2.calcHist([image], [colour], None, [16], [0, 256]).ravel() for colour in range(3)]
        np.testing.assert_allclose(row, np.concatenate(theirs) / image[..., 0].size, rtol=1e-6)


def _flux_store(path: Path, stamps: np.ndarray) -> Store:
    field = FieldSpec("array", ("g", "r", "z"), "float32", shape=stamps.shape[2:])
    header = StoreHeader("galaxy", "images", {"image": field}, 1, len(stamps), {}, "plan", "config")
    create_store(path, header, 4_000)
    samples = [PreparedSample(f"s{i}", "train", {"image": stamp}, {}) for i, stamp in enumerate(stamps)]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return Store(path)


def test_flux_is_seen_as_it_is_displayed_by_the_stretch_of_one_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stamps = rng.gamma(0.3, 1.0, (6, 3, 8, 8)).astype(np.float32)
    store = _flux_store(tmp_path / "a.zarr", stamps)
    brighter = _flux_store(tmp_path / "b.zarr", 50 * stamps)
    index = np.arange(6)
    found = colour_histograms(store, index, store)
    display = fit_display(store)
    shown = [display(sample) for sample in Decoder(store, load_domain("galaxy").decode)(index)]
    np.testing.assert_array_equal(found, [colour_histogram(picture) for picture in shown])
    np.testing.assert_allclose(colour_histograms(brighter, index, brighter), found, atol=0.05)
    assert np.abs(colour_histograms(brighter, index, store) - found).max() > 0.2


def test_it_never_saw_anything(survey: Store) -> None:
    encoder = find_encoder(COLOUR_HISTOGRAM, survey)
    mark = mark_encoder(encoder, survey, load_task(survey, MORPHOLOGY))
    assert (mark.level, mark.sentence) == ("none", "Nothing was seen by pretraining: it has no weights.")
    assert (encoder.name, encoder.foreign, encoder.has_weights) == ("colour-histogram", False, False)


def test_it_stands_beside_a_run_in_one_table(tmp_path: Path, survey: Store, run: Path) -> None:
    asked: dict[str, Any] = {"task": "morphology", "labels": ("12",), "subsets": 2, "random_encoders": 2, "workers": 0}
    found = transfer([COLOUR_HISTOGRAM, run], survey.path, tmp_path / "out", arms=("frozen", "random"), **asked)
    assert [(row.encoder, row.arm, row.baseline, row.saw) for row in found.rows] == [
        ("colour-histogram", "frozen", "", "none"), ("first", "frozen", "random", found.rows[1].saw),
        ("random", "random", "", "none"),
    ]
    assert [(end.encoder, end.baseline) for end in found.endpoints] == [
        ("first", "random"), ("first", "colour-histogram")
    ]
    assert [path.name for path in (found.out / "models").iterdir()] == ["frozen-first"]
    with pytest.raises(ConfigError, match="colour-histogram: features without an encoder have no weights"):
        transfer([COLOUR_HISTOGRAM], survey.path, tmp_path / "alone", arms=("frozen", "random"), **asked)


def test_embed_and_rank_take_it(tmp_path: Path, survey: Store) -> None:
    embed(COLOUR_HISTOGRAM, survey.path, tmp_path / "out", workers=0)
    ids, values = read_embeddings(tmp_path / "out")
    own = compute_embeddings(find_encoder(COLOUR_HISTOGRAM, survey), survey, np.arange(len(survey.ids)), workers=0)
    assert dict(zip(ids, values.tolist(), strict=True)) == dict(zip(survey.ids, own.tolist(), strict=True))
    asked: dict[str, Any] = {"similar_to": [survey.ids[0]], "n": 3, "workers": 0}
    ranked, again = (rank(run, survey.path, tmp_path / name, **asked).rows
                     for run, name in ((COLOUR_HISTOGRAM, "named"), (tmp_path / "out", "embedded")))
    assert [row.id for row in ranked] == [row.id for row in again]


def test_another_baseline_is_an_error_in_words(survey: Store) -> None:
    with pytest.raises(RegistryError, match=r"no baseline named 'baseline:color-histogram'\. Did you mean"):
        find_encoder("baseline:color-histogram", survey)


