"""`store dedup`: copies of each kind in one group, other images in none, one of each group kept, whatever the order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.cli import run
from sciencessl.data_prep.decode import hash_bytes, hash_pixels
from sciencessl.errors import ConfigError, StoreError
from sciencessl.preparation import prepare
from sciencessl.registry import load_domain
from sciencessl.store.confirmed import Links, confirmed
from sciencessl.store.dedup import REASON, TABLE, DedupReport, dedup
from sciencessl.store.dedup_report import PAGE, dedup_text
from sciencessl.store.format import StoreHeader
from sciencessl.store.hamming import near_pairs
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.views.perceptual import phash, phashes


def photo(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Smooth coloured noise with structure of all sizes."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(size=(side, side, 3)).astype("f4"), (width, height), interpolation=cv2.INTER_CUBIC)
              for side in (3, 6, 12, 24)]
    return np.asarray(np.clip(128 + 30 * np.sum(layers, axis=0), 0, 255).astype(np.uint8))


def png(image: np.ndarray, level: int = 3) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, level])[1])


def jpeg(image: np.ndarray, quality: int = 75) -> bytes:
    return bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def shrunk(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def sample(name: str, raw: bytes, split: str = "train", leave: Sequence[str] = (), **columns: Any) -> PreparedSample:
    pixels = np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB))
    known = {"content_hash": hash_bytes(raw), "pixel_hash": hash_pixels(pixels), "width": pixels.shape[1],
             "phash": int(np.uint64(phash(pixels)).view(np.int64)), "height": pixels.shape[0]}
    return PreparedSample(name, split, {"image": raw}, {k: v for k, v in (known | columns).items() if k not in leave})


def store_of(path: Path, samples: Sequence[PreparedSample], rows: int = 2) -> Path:
    header = StoreHeader("web", "images", load_domain("web").fields, rows, len(samples), {}, "plan", "config")
    create_store(path, header, 100_000)
    for row in range(rows):
        write_row(path, header, row, list(samples[row::rows]), [], "inputs")
    seal(path, header)
    return path


def copies() -> list[PreparedSample]:
    """Two photos with copies of each kind, and two without."""
    one, other = photo(1), photo(2)
    return [
        sample("one", jpeg(one, 95)), sample("one-again", jpeg(one, 95)),
        sample("one-small", jpeg(shrunk(one, 64, 48))), sample("one-square", png(shrunk(one, 80, 80))),
        sample("one-grey", jpeg(grey(one), 60)),
        sample("other", png(other, 1)), sample("other-packed", png(other, 9)), sample("other-q40", jpeg(other, 40)),
        sample("third", jpeg(photo(3))), sample("fourth", png(photo(4))),
    ]


def groups(path: Path) -> dict[str, set[str]]:
    """Kept -> its copies."""
    found: dict[str, set[str]] = {}
    for row in Store(path).table(TABLE).data.to_pylist():
        found.setdefault(row["duplicate_of"], set())
        if not row["duplicate_kept"]:
            found[row["duplicate_of"]].add(row["id"])
    return found


def of_one(path: Path) -> set[str]:
    """The ids of the group of `one`."""
    return next({kept, *others} for kept, others in groups(path).items() if "one" in {kept, *others})


def test_copies_of_each_kind_are_in_one_group_and_other_images_in_none(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    found = dedup(path)
    assert of_one(path) == {"one", "one-again", "one-small", "one-square", "one-grey"}
    assert groups(path)["other"] == {"other-packed", "other-q40"}
    assert (found.groups, found.copies, found.sizes) == (2, 6, {3: 1, 5: 1})
    assert found.levels == {"bytes": 1, "pixels": 1, "phash": 4}
    rows = {row["id"]: row for row in Store(path).table(TABLE).data.to_pylist()}
    assert rows["other-packed"]["duplicate_by"] == "pixels"
    assert rows["other"]["duplicate_by"] is None
    assert {rows[name]["duplicate_by"] for name in ("one", "one-again")} <= {None, "bytes"}
    assert rows["one-grey"]["duplicate_by"] == "phash"
    assert rows["one-grey"]["duplicate_bits"] <= 3
    ids = Store(path).ids
    assert [ids[row["duplicate_index"]] for row in rows.values()] == [*rows]


def test_the_order_of_samples_changes_nothing(tmp_path: Path) -> None:
    first, second = store_of(tmp_path / "a.zarr", copies()), store_of(tmp_path / "b.zarr", copies()[::-1], 3)
    reports = [dedup(path) for path in (first, second)]
    assert groups(first) == groups(second)
    assert reports[0].levels == reports[1].levels


def test_what_copies_share_can_be_chosen(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    dedup(path, by=["bytes"])
    assert [{kept, *others} for kept, others in groups(path).items()] == [{"one", "one-again"}]
    assert dedup(path, by=["pixels"]).copies == 2
    assert dedup(path, by=["phash"]).copies == 6


def test_the_largest_source_is_kept_and_of_equal_ones_that_with_more_bytes(tmp_path: Path) -> None:
    image = photo(1)
    small = sample("small", png(shrunk(image, 64, 48)), source_width=4000, source_height=3000)
    path = store_of(tmp_path / "s.zarr", [
        sample("q60", jpeg(image, 60), source_width=1280, source_height=960),
        sample("q90", jpeg(image, 90), source_width=1280, source_height=960), small])
    dedup(path)
    assert groups(path) == {"small": {"q60", "q90"}}
    dedup(store_of(tmp_path / "t.zarr", [sample("q60", jpeg(image, 60)), sample("q90", jpeg(image, 90))]))
    assert groups(tmp_path / "t.zarr") == {"q90": {"q60"}}


def test_the_sharpest_or_the_first_is_kept_on_request(tmp_path: Path) -> None:
    image = photo(1)
    path = store_of(tmp_path / "s.zarr", [sample("dull", jpeg(image, 90), sharpness=1.0),
                                          sample("sharp", jpeg(image, 60), sharpness=2.0)], 1)
    dedup(path, keep="sharpest")
    assert groups(path) == {"sharp": {"dull"}}
    dedup(path, keep="first")
    assert groups(path) == {Store(path).ids[0]: {Store(path).ids[1]}}


def test_of_several_splits_the_test_sample_is_kept_and_the_leak_is_told(tmp_path: Path) -> None:
    # A defect elsewhere: the copy that stays is one of train, and the test stays known to it.
    image = photo(1)
    path = store_of(tmp_path / "s.zarr", [
        sample("train", png(image)), sample("val", jpeg(image), "val"), sample("test", jpeg(image, 60), "test"),
        sample("alone", png(photo(2)))])
    found = dedup(path)
    assert groups(path) == {"test": {"train", "val"}}
    assert (found.spanning, found.splits) == (1, {"train": 1, "val": 1, "test": 0})
    assert "1 group lies in several splits: a leak" in dedup_text(found)


def alike(path: Path, *, same: int = 7) -> Path:
    """Different images under one hash, two of which have copies."""
    a, b, c = photo(1), photo(2), photo(3)
    raws = {"a": png(a), "b": png(b), "b-q80": jpeg(b, 80), "c": png(c), "c-q80": jpeg(c, 80), "d": png(photo(4))}
    return store_of(path, [sample(name, raw, phash=same) for name, raw in raws.items()])


def test_images_of_near_hashes_whose_pixels_differ_are_no_copies(tmp_path: Path) -> None:
    """And of one hash, copies are found beside others that are not alike."""
    path = alike(tmp_path / "s.zarr")
    found = dedup(path)
    assert sorted(sorted({kept, *others}) for kept, others in groups(path).items()) == [["b", "b-q80"], ["c", "c-q80"]]
    assert found.rejected > 0
    assert dedup(path, confirm=False).copies == 5


def test_images_without_contrast_are_near_nothing(tmp_path: Path) -> None:
    blank = [sample(f"blank-{value}", png(np.full((40, 40, 3), value, np.uint8))) for value in (0, 9, 200, 255)]
    path = store_of(tmp_path / "s.zarr", blank)
    found = dedup(path)
    assert (found.copies, found.flat) == (0, 4)
    assert "no copies among 4 samples" in dedup_text(found)


def test_what_another_store_has_is_left(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    other = store_of(tmp_path / "o.zarr", [sample("known", jpeg(photo(2), 50)), sample("third", jpeg(photo(3))),
                                           sample("third-again", jpeg(photo(3))), sample("new", png(photo(8)))])
    found = dedup(path, other)
    assert groups(path)["known"] == {"other", "other-packed", "other-q40"}
    assert sum(("third" in others) for others in groups(path).values()) == 1
    assert (found.copies, found.against) == (4 + 3 + 1, str(other))
    assert TABLE not in Store(other).tables
    dedup(path, other, remove=True)
    assert len(Store(path).present) == 2, "one of the first group, and the fourth"


def test_copies_are_withdrawn_with_their_reason_and_not_found_again(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    found = dedup(path, remove=True)
    store = Store(path)
    assert found.withdrawn == 6 == len(store.removed)
    assert set(store.table("removals").data["reason"].to_pylist()) == {REASON}
    left = {store.ids[i] for i in store.present.all()}
    assert left == {*groups(path), "third", "fourth"}
    again = dedup(path)
    assert (again.samples, again.copies, again.groups) == (4, 0, 0)


def test_withdrawn_samples_are_not_compared(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    remove(path, ["other", "other-q40", "one-grey"], "bad")
    found = dedup(path)
    assert (found.samples, found.copies, found.groups) == (7, 3, 1)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    before = sorted(str(file) for file in tmp_path.rglob("*"))
    found = dedup(path, dry_run=True, remove=True)
    assert sorted(str(file) for file in tmp_path.rglob("*")) == before
    assert (found.copies, found.withdrawn, found.table) == (6, 0, "")
    assert "nothing was written" in dedup_text(found)


def test_a_store_without_hashes_is_read_for_them_and_the_rest_is_told(tmp_path: Path) -> None:
    bare = [replace(each, columns={}) for each in copies()]
    path = store_of(tmp_path / "s.zarr", bare)
    found = dedup(path)
    assert found.levels == {"phash": 6}
    assert len(found.notes) == 2
    assert "Equal bytes were not looked for: a store has no column 'content_hash'." in dedup_text(found)
    assert dedup(path).levels == {"phash": 6}


def test_the_page_shows_groups_and_the_least_certain_pairs(tmp_path: Path) -> None:
    found = dedup(alike(tmp_path / "s.zarr"), out=tmp_path / "page")
    text = (tmp_path / "page" / PAGE).read_text()
    assert found.report == str(tmp_path / "page")
    for words in ("Largest groups", "Least certain copies", "Not taken for copies", "b-q80"):
        assert words in text
    assert cv2.imread(str(tmp_path / "page" / "pairs.png")) is not None


def test_the_verb_prints_what_to_do_and_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store_of(tmp_path / "s.zarr", copies())
    assert run(["store", "dedup", str(path)]) == 0
    out = capsys.readouterr().out
    assert "6 of 10 samples are copies of others that are kept, in 2 groups" in out
    command = f"sciencessl store remove {path} --where 'duplicate_kept=false' --reason duplicate"
    assert command in out
    assert run(["store", "dedup", str(path), "--by", "bytes", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == 1
    assert run(["store", "remove", str(path), "--where", "duplicate_kept=false", "--reason", "duplicate"]) == 0
    assert len(Store(path).removed) == 6


@pytest.mark.parametrize(("options", "words"), [
    ({"by": ["pixel"]}, "level of copies named 'pixel'"),
    ({"by": []}, "no level of copies was named"),
    ({"keep": "best"}, "rule to keep by"),
    ({"keep": "sharpest"}, "has no column 'sharpness'"),
    ({"radius": 9}, "radius 9; perceptual hashes of copies differ in 0 to 7"),
    ({"embeddings": "E", "against": "S"}, "embeddings are of one store"),
    ({"cosine": 0.9}, "cosine 0.9 without embeddings"),
])
def test_options_that_make_no_sense_are_refused_in_words(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    path = store_of(tmp_path / "s.zarr", copies()[:2])
    with pytest.raises(ConfigError, match=words):
        dedup(path, **options)


def test_a_store_is_not_deduplicated_against_itself(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", copies()[:2])
    link = tmp_path / "link.zarr"
    link.symlink_to(path)
    for same in (path, tmp_path / "x" / ".." / "s.zarr", link):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="against itself, and all of its samples would go"):
            dedup(path, same, remove=True)
    assert len(Store(path).present) == 2


def test_a_column_that_is_no_digest_is_refused_in_words(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.zarr", [sample("a", png(photo(1)), content_hash="no hash")], 1)
    with pytest.raises(StoreError, match=r"'content_hash' holds what is no digest in hex .* leave its level out"):
        dedup(path)


@pytest.fixture(scope="module")
def near_duplicates(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DedupReport]:
    path = tmp_path_factory.mktemp("near") / "near.zarr"
    prepare("web", [str(shared_data / "web" / "near_duplicates")], path)
    return path, dedup(path)


def test_every_resized_encoded_and_grey_copy_of_real_photos_is_found(near_duplicates: tuple[Path, DedupReport]) -> None:
    found = {frozenset({kept, *others}) for kept, others in groups(near_duplicates[0]).items()}
    names: Callable[[str], set[str]] = lambda text: {  # noqa: E731
        name for name in Store(near_duplicates[0]).ids if text in name}
    assert found == {
        frozenset((names("ukbench00120") | {"alpha_channel_image.png"}) - names("flip") - names("rotation")),
        frozenset(names("ukbench09268")), frozenset(names("ukbench09380")),
        frozenset(names("ukbench00120_rotation")), frozenset(names("ukbench00120_hflip")),  # turned: of their own
    }


def test_of_clothing_only_one_photo_that_is_there_twice_is_a_copy(shared_data: Path) -> None:
    files = sorted((shared_data / "web" / "clothing").glob("*/*/*.jpg"))
    assert len(files) == 979
    flags = cv2.IMREAD_COLOR_RGB

    def picture(number: int) -> np.ndarray:
        return np.asarray(cv2.imread(str(files[number]), flags))

    hashes = phashes(picture(number) for number in range(len(files)))
    blocks = [Links.of(one, other) for one, other, _ in near_pairs(hashes, 7)]
    found, rejected = confirmed(Links.joined([]), Links.joined(blocks), picture)
    assert [{files[i].parent.name for i in pair} for pair in zip(found.one, found.other, strict=True)] == [
        {"shorts", "skirt"}], "one photo under two classes"
    assert len(rejected) == 2
