"""Hooks: columns, blurred boxes and dropped images, by functions of the user's own."""

from __future__ import annotations

import csv
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.data_prep.crawl import hooks
from sciencessl.data_prep.crawl.hooks import Hooks, blur_boxes, check_drops
from sciencessl.data_prep.decode import Canonical, Encoded, Refused, hash_pixels
from sciencessl.errors import ConfigError
from sciencessl.preparation import prepare
from sciencessl.spec import FieldSpec
from sciencessl.store.conditions import parse_condition
from sciencessl.store.reader import Store

FIELD = FieldSpec("bytes", ("r", "g", "b"))
MINE = '''
def red(images):
    return {"red": [float(image[..., 0].mean()) for image in images]}

def corner(images):
    return {"faces": [1] * len(images), "boxes": [[(2, 3, 14, 15)]] * len(images)}

def fails_on_dark(images):
    if any(image.mean() < 40 for image in images):
        raise ValueError("too dark to see")
    return {"seen": [1] * len(images)}

def unsure(images):
    return {"nsfw": [float("nan") if image.mean() < 40 else 0.1 for image in images]}

def lone(images):
    return {"nsfw": 0.1}

def crooked(images):
    return [1, 2]

def torn(images):
    return {"boxes": [[(2, 3)] if image.mean() < 40 else [] for image in images]}

def nowhere(images):
    return {"boxes": [[(0, 0, float("nan"), 9)] if image.mean() < 40 else [] for image in images]}

def none(images):
    return {"boxes": [None if image.mean() < 40 else [] for image in images]}

def hashes(images):
    return {"phash": [1] * len(images)}

NUMBER = 3
'''


def encoded(value: int, size: int = 32, kind: str = "JPEG") -> Encoded:
    rng = np.random.default_rng(value)
    pixels = np.clip(rng.integers(-30, 30, (size, size, 3)) + value, 0, 255).astype(np.uint8)
    raw = io.BytesIO()
    Image.fromarray(pixels).save(raw, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    payload = raw.getvalue()
    return Encoded(payload, size, size, hash_pixels(decode(payload, FIELD)), {"phash": 1})


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def run(names: list[str], items: list[Any]) -> list[Any]:
    loaded = pickle.loads(pickle.dumps(Hooks(tuple(names), FIELD, Canonical())))
    loaded.check()
    return [found for _, found in loaded.apply(iter([(number, item) for number, item in enumerate(items)]))]


def test_names_become_columns_in_the_order_of_the_images(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "BATCH", 3)
    bad = Refused("corrupt", "x")
    items = [encoded(60), bad, encoded(120), encoded(180), encoded(200)]
    found = run([f"{mine}:red"], items)
    assert found[1] is bad
    for item, image in zip([*items[:1], *items[2:]], [*found[:1], *found[2:]], strict=True):
        assert image.columns["red"] == pytest.approx(decode(item.payload, FIELD)[..., 0].mean())
        assert image.columns["phash"] == 1
        assert (image.payload, image.columns["blurred"]) == (item.payload, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_boxes_enclose_is_blurred_and_all_else_stays(mine: Path, kind: str) -> None:
    (image,) = run([f"{mine}:corner", f"{mine}:red"], [encoded(120, 48, kind)])
    before, after = decode(encoded(120, 48, kind).payload, FIELD), decode(image.payload, FIELD)
    assert image.payload.startswith(encoded(120, 48, kind).payload[:2])
    assert image.columns["blurred"] == 1
    assert image.columns["faces"] == 1.0
    assert image.pixel_hash == hash_pixels(after)
    inside = np.s_[3:15, 2:14]
    assert after[inside].std() < before[inside].std() / 2
    assert np.abs(after[20:, 20:].astype(int) - before[20:, 20:]).max() <= (0 if kind == "PNG" else 12)


def test_boxes_at_the_border_and_outside_do_no_harm() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    assert np.array_equal(blur_boxes(pixels, [(40, 3, 50, 9), (5, 5, 5, 9), (-9, -9, -1, 30)]), pixels)
    whole = blur_boxes(pixels, [(-5.0, -5.0, 99.0, 99.0)])
    assert whole.shape == pixels.shape
    assert whole.std() < pixels.std() / 2
    assert blur_boxes(pixels, [(0, 0, 0.5, 0.5)]).shape == pixels.shape


def test_an_image_that_a_hook_cannot_take_is_refused_alone(mine: Path) -> None:
    found = run([f"{mine}:fails_on_dark"], [encoded(200), encoded(20), encoded(150)])
    assert [type(item) for item in found] == [Encoded, Refused, Encoded]
    assert (found[1].reason, found[1].detail) == ("hook-failed", "fails_on_dark: ValueError: too dark to see")


@pytest.mark.parametrize("name", ["torn", "nowhere", "none"])
def test_boxes_that_are_none_cost_the_image_and_no_other(mine: Path, name: str) -> None:
    found = run([f"{mine}:{name}"], [encoded(200), encoded(20), encoded(150)])
    assert [type(item) for item in found] == [Encoded, Refused, Encoded]
    assert found[1].reason == "hook-failed"


def test_a_score_that_is_no_number_passes_no_filter(mine: Path) -> None:
    found = run([f"{mine}:unsure"], [encoded(200), encoded(20)])
    assert found[0].columns["nsfw"] == 0.1
    assert (found[1].reason, found[1].detail) == ("hook-failed", "unsure: ValueError: nsfw is no number")


@pytest.mark.parametrize(("name", "words"), [
    ("{file}:lone", r"of 1 images it returned dict .*; expected a mapping from names to one value an image"),
    ("{file}:crooked", r"of 1 images it returned list \[1, 2\]; expected a mapping from names to one value an image"),
    ("{file}:hashes", r"mine.py:hashes: every image has a column 'phash' already; return the values under another"),
    ("{file}:absent", r"^--hooks \S*mine.py:absent: \S*mine.py defines no 'absent'.*Give MODULE:FUNCTION or FILE"),
    ("{file}:NUMBER", r"mine.py:NUMBER is a int, expected a function"),
    ("no_such_module:f", r"--hooks no_such_module:f: cannot load 'no_such_module:f'"),
])
def test_a_hook_that_is_none_is_told(mine: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run([name.format(file=mine)], [encoded(99)])


def test_conditions_drop_images_by_any_column() -> None:
    columns = {"nsfw": 0.7, "caption": "a cat", "score": None}
    check_drops(columns, [parse_condition("nsfw>0.8"), parse_condition("score>0"), parse_condition("caption=dog")])
    with pytest.raises(Refused) as told:
        check_drops(columns, [parse_condition("caption=dog"), parse_condition("nsfw>=0.7")])
    assert (told.value.reason, told.value.detail) == ("filtered:nsfw", "meets 'nsfw>=0.7'")
    with pytest.raises(ConfigError, match=r"--drop 'nfsw>1': images have no column 'nfsw'; they have caption, nsfw"):
        check_drops(columns, [parse_condition("nfsw>1")])
    with pytest.raises(ConfigError, match=r"^--drop 'caption<3': column 'caption' holds text"):
        check_drops(columns, [parse_condition("caption<3", "--drop")])


def test_a_run_scores_blurs_and_drops_and_other_code_is_another_run(mine: Path, tmp_path: Path) -> None:
    path = tmp_path / "c" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for number, value in enumerate([50, 90, 130, 170, 210]):
            info = tarfile.TarInfo(f"{number}.jpg")
            raw = encoded(value).payload
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    settings = {"workers": 0, "decode_seconds": 0, "test_fraction": 0.0, "hooks": (f"{mine}:red", f"{mine}:corner"),
                "drop": ("red>150",)}
    report = prepare("web", [tmp_path / "c"], tmp_path / "s.zarr", settings)
    store = Store(tmp_path / "s.zarr")
    assert report.refused == {"filtered:red": 2}
    assert sorted(store.ids) == ["a/0", "a/1", "a/2"]
    assert store.column("blurred").tolist() == [1, 1, 1]
    with open(report.refusals_file, newline="") as stream:
        assert {row["detail"] for row in csv.DictReader(stream)} == {"meets 'red>150'"}
    assert prepare("web", [tmp_path / "c"], tmp_path / "s.zarr", settings).nothing_to_do
    mine.write_text(MINE.replace("float(image[..., 0].mean())", "float(image[..., 1].mean())"))
    other = prepare("web", [tmp_path / "c"], tmp_path / "t.zarr", settings)
    assert other.manifest_digest != report.manifest_digest
