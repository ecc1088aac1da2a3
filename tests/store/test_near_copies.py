"""Near copies: found by perceptual hash, confirmed by pixels, and what cannot be compared is said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.store import near_copies as module
from sciencessl.store.evidence import by_likeness
from sciencessl.store.near_copies import CANDIDATES, COPIED, RADIUS, NearCopies, near_copies, store_hashes
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side
from sciencessl.views.perceptual import phash
from sciencessl.views.polar import Alignment
from tests.photos import COPIES, decoded, encoded, photo, photo_store


def whole(store: Store, name: str = "pool") -> Side:
    return Side(store, store.present.all(), name)


def by_id(store: Store) -> dict[str, int]:
    return dict(zip(store.ids, store_hashes(store).tolist(), strict=True))


def shared(found: NearCopies, pool: Store, test: Store) -> dict[str, str]:
    return {test.ids[row]: pool.ids[found.match[row]] for row in found.rows(COPIED)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 photos, of which four are near copies of photos 100 to 103, and one is black."""
    copied = [(f"web/{kind}", "train", make(photo(100 + n))) for n, (kind, make) in enumerate(COPIES.items())]
    others = [(f"web/{i}", "train", encoded(photo(i))) for i in range(36)]
    black = encoded(np.zeros((64, 64, 3), np.uint8))
    path = tmp_path_factory.mktemp("pool") / "crawl.zarr"
    return photo_store(path, [*others, *copied, ("web/black", "train", black)])


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Photos 100 to 111, a black one and a turned one of the pool, without hashes."""
    entries = [(f"t{i}", "test", encoded(photo(i))) for i in range(100, 112)]
    turned = encoded(np.ascontiguousarray(np.rot90(photo(0))))
    black = encoded(np.zeros((64, 64, 3), np.uint8))
    path = tmp_path_factory.mktemp("tested") / "test.zarr"
    return photo_store(path, [*entries, ("turned", "test", turned), ("black", "test", black)], hashed=False)


def test_copies_are_found_and_nothing_else(pool: Store, tested: Store) -> None:
    found = near_copies(whole(pool), whole(tested))
    assert shared(found, pool, tested) == {f"t{100 + n}": f"web/{kind}" for n, kind in enumerate(COPIES)}
    assert found.unknown == ""
    (entry,) = by_likeness(whole(pool), whole(tested, "test"), found)
    assert (entry.kind, entry.by, entry.samples) == ("copy", "perceptual hash", 4)
    for pair in entry.pairs:
        images = (decoded(store.payloads(store.primary, [index])[0])  # type: ignore[arg-type]
                  for store, index in ((pool, pair.pool_index), (tested, pair.test_index)))
        first, second = map(phash, images)
        assert pair.value == f"{(first ^ second).bit_count()} bits apart"
        assert pair.score is not None
        assert pair.score > COPIED


def test_hashes_are_made_once_and_kept_beside_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [(f"t{i}", "test", encoded(photo(i))) for i in range(5)]
    path = photo_store(tmp_path / "s.zarr", entries, hashed=False).path
    made = store_hashes(Store(path))
    assert by_id(Store(path)) == {name: phash(decoded(raw)) for name, _, raw in entries}
    with monkeypatch.context() as without:
        without.delattr(module, "phash")
        assert np.array_equal(store_hashes(Store(path)), made)
    # Those of another store, or a file that is no such file, are made anew.
    photo_store(tmp_path / "again" / "s.zarr", entries[:3], hashed=False)
    (tmp_path / "s.phash.npz").rename(tmp_path / "again" / "s.phash.npz")
    assert len(store_hashes(Store(tmp_path / "again" / "s.zarr"))) == 3
    (tmp_path / "s.phash.npz").write_bytes(b"no archive")
    assert np.array_equal(store_hashes(Store(path)), made)
    assert not list(path.rglob("*phash*"))


def test_a_column_of_hashes_needs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(f"t{i}", "test", encoded(photo(i))) for i in range(4)]
    known = {"t0": {"phash": -1}, "t1": {"phash": 2**62 + 1}, "t2": {"phash": None}, "t3": {"phash": 7}}
    store = photo_store(tmp_path / "s.zarr", entries, hashed=False, columns=known)
    monkeypatch.delattr(module, "phash")
    assert by_id(store) == {"t0": 2**64 - 1, "t1": 2**62 + 1, "t2": 0, "t3": 7}


def test_a_large_store_without_hashes_is_told(pool: Store, tested: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNHASHED", 10)
    monkeypatch.setattr(module, "_kept", lambda store: None)
    found = near_copies(whole(pool), whole(tested))
    assert found.unknown == (f"Near copies were not looked for: {tested.path} has 14 images and no column 'phash', "
                             f"with which crawls are prepared; `sciencessl store dedup {tested.path} --by phash "
                             "--dry-run` makes its hashes.")
    assert (found.match == -1).all()
    assert near_copies(whole(pool), whole(pool)).unknown == ""


@pytest.mark.parametrize("kept", [module.KEPT, 3])
def test_candidates_are_the_nearest_within_the_radius(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", kept)
    rng = np.random.default_rng(0)
    pool = rng.integers(1, 2**63, 300).astype(np.uint64)
    pool[100:120] = pool[0]  # one image many times
    test = pool[rng.integers(0, 300, 80)].copy()
    for row in range(80):
        for bit in rng.choice(64, rng.integers(0, 10), replace=False):
            test[row] ^= np.uint64(1) << np.uint64(bit)
    test[7] = 0
    which, match, bits = module._candidates(pool, test)
    apart = np.bitwise_count(pool[None] ^ test[:, None]).astype(int)
    for row in range(80):
        mine = which == row
        near = np.sort(apart[row][apart[row] <= RADIUS])[:CANDIDATES] if row != 7 else []
        assert np.sort(bits[mine]).tolist() == list(near)
        assert (apart[row][match[mine]] == bits[mine]).all()
        assert len(set(match[mine].tolist())) == mine.sum()


def test_images_without_contrast_resemble_nothing(tmp_path: Path) -> None:
    black = encoded(np.zeros((64, 64, 3), np.uint8))
    store = photo_store(tmp_path / "s.zarr", [(f"b{i}", "train", black) for i in range(20)])
    assert (near_copies(whole(store), whole(store)).match == -1).all()


def test_an_image_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    good = [(f"t{i}", "train", encoded(photo(i))) for i in range(3)]
    pool = photo_store(tmp_path / "p.zarr", good)
    same = {"broken": {"phash": int(np.uint64(store_hashes(pool)[0]).view(np.int64))}}
    test = photo_store(tmp_path / "t.zarr", [("broken", "test", b"no image")], hashed=False, columns=same)
    found = near_copies(whole(pool), whole(test))
    assert found.likeness.score.tolist() == [0]
    assert list(by_likeness(whole(pool), whole(test), found)) == []
    # Of a crawl that is indexed in place and has moved since, silence would read as that nothing was found.
    assert found.unknown == (f"Near hashes of 1 image of {test.path} could not be confirmed, because pixels cannot be "
                             f"read; `sciencessl store verify {test.path}` tells why.")
    unhashed = photo_store(tmp_path / "u.zarr", [("broken", "test", b"no image"), *good], hashed=False)
    assert by_id(unhashed) == {"broken": 0, **by_id(pool)}


def test_scores_between_the_thresholds_are_look_alikes(pool: Store, tested: Store) -> None:
    m = len(tested)
    score = np.zeros(m)
    score[:4] = 0.5, 0.51, 0.65, 0.66
    zero = np.zeros(m)
    found = NearCopies(np.zeros(m, np.int64), np.full(m, 2), Alignment(score, zero, zero, zero.astype(bool)))
    copy, alike = by_likeness(whole(pool), whole(tested, "test"), found)
    assert (copy.kind, copy.ids) == ("copy", (tested.ids[3],))
    assert (alike.kind, alike.ids) == ("look-alike", (tested.ids[2], tested.ids[1]))


def test_nothing_is_near_an_empty_side(pool: Store, tested: Store) -> None:
    none = np.zeros(0, np.int64)
    assert (near_copies(Side(pool, none, "pool"), whole(tested)).match == -1).all()
    assert len(near_copies(whole(pool), Side(tested, none, "test")).match) == 0


def test_no_photo_of_clothes_is_taken_for_another(tmp_path: Path, shared_data: Path) -> None:
    def entries(split: str) -> list[tuple[str, str, bytes]]:
        files = sorted((shared_data / "web/clothing" / split).rglob("*.jpg"))
        small = (cv2.imread(str(file), cv2.IMREAD_REDUCED_COLOR_2) for file in files)
        return [(f"{split}/{file.stem}", split, encoded(image[..., ::-1]))
                for file, image in zip(files, small, strict=True)]

    train, test = entries("train"), entries("test")
    assert len(train) > 300
    pool, tested = photo_store(tmp_path / "a.zarr", train), photo_store(tmp_path / "b.zarr", test)
    found = near_copies(whole(pool), whole(tested))
    assert len(found.rows(0.5)) == 0
    # And each is found again among them when it was saved anew at three quarters of its size.
    again = [(f"again/{name}", "train", encoded(cv2.resize(decoded(raw), None, fx=0.75, fy=0.75), 70))
             for name, _, raw in test]
    crawl = photo_store(tmp_path / "c.zarr", [*train, *again])
    found = near_copies(whole(crawl), whole(tested))
    assert shared(found, crawl, tested) == {name: f"again/{name}" for name, *_ in test}


def test_every_resized_grey_and_converted_copy_of_real_photos_is_found(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "web/near_duplicates"

    def entries(files: list[Path], split: str) -> list[tuple[str, str, bytes]]:
        images = (cv2.imread(str(file), cv2.IMREAD_COLOR) for file in files)
        return [(str(file.relative_to(folder)), split, encoded(image[..., ::-1]))
                for file, image in zip(files, images, strict=True)]

    base = sorted((folder / "base_images").iterdir())
    copied = [folder / "ukbench00120_gray.jpg", folder / "mixed_images/ukbench00120_resize.jpg",
              folder / "mixed_images/ukbench09268.jpg", *sorted((folder / "formats_images").glob("ukbench09380.*"))]
    turned = [folder / "mixed_images/ukbench00120_hflip.jpg", folder / "mixed_images/ukbench00120_rotation.jpg"]
    pool = photo_store(tmp_path / "base.zarr", entries(base, "train"))
    test = photo_store(tmp_path / "copies.zarr", entries([*copied, *turned], "test"))
    expected = {str(file.relative_to(folder)): f"base_images/{file.stem[:12]}.jpg" for file in copied}
    assert shared(near_copies(whole(pool), whole(test)), pool, test) == expected
