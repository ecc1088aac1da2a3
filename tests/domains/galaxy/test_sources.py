"""Simulated votes on real images: a table that says what it is, drawn for each galaxy by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl.domains.galaxy.schema import load_schema
from sciencessl.domains.galaxy.sources import TABLE, GalaxyPrepare, add_simulated_votes
from sciencessl.domains.galaxy.votes import SIMULATED
from sciencessl.errors import ConfigError, DataError
from sciencessl.preparation import prepare
from sciencessl.store.reader import Store
from sciencessl.store.verify import verify

CLASSES = ("elliptical", "spiral-clockwise", "edge-on", "something-else")
COLUMNS = load_schema("gzd5").only(["smooth-or-featured"]).columns


def galaxies(folder: Path, n: int) -> Path:
    for i in range(n):
        path = folder / CLASSES[i % 4] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def stored(folder: Path, out: Path, n: int, **settings: Any) -> Store:
    prepare("galaxy", [galaxies(folder, n)], out, {"simulate_votes_from": "class", **settings})
    return Store(out)


def votes_of(store: Store) -> dict[str, list[int]]:
    counts = store.table(TABLE).counts(store.ids, COLUMNS)
    return {name: row.astype(int).tolist() for name, row in zip(store.ids, counts, strict=True)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("votes")
    return stored(folder / "raw", folder / "s.zarr", 40)


def test_the_table_says_what_it_is(store: Store) -> None:
    table = store.table(TABLE)
    assert table.note.startswith(f"{SIMULATED}: {{")
    assert '"keyed_by": "seed and key of the galaxy"' in table.note
    assert dict(table.derived_from) == dict.fromkeys(COLUMNS, ("class",))
    assert table.schema is not None
    assert [question.name for question in table.schema.questions] == ["smooth-or-featured-dr5"]
    assert store.derived_from()[COLUMNS[0]] == ("class",)
    assert verify(store.path) == []


def test_votes_follow_the_class(store: Store) -> None:
    votes = votes_of(store)
    classes = dict(zip(store.ids, store.column("class"), strict=True))
    for name, row in votes.items():
        assert sum(row) == 0 if classes[name] == "something-else" else 20 <= sum(row) <= 40
    smooth = {
        kind: np.mean([votes[n][0] / sum(votes[n]) for n in votes if classes[n] == kind]) for kind in CLASSES[:3]
    }
    assert smooth["elliptical"] > 0.7 > 0.4 > smooth["edge-on"] > smooth["spiral-clockwise"]


def test_votes_of_a_galaxy_are_its_own(store: Store, tmp_path: Path) -> None:
    """Other rows, fewer galaxies, another order: each keeps its votes."""
    fewer = votes_of(stored(tmp_path / "raw", tmp_path / "s.zarr", 23))
    everyone = votes_of(store)
    assert fewer == {name: everyone[name] for name in fewer}
    assert len({tuple(row) for row in everyone.values()}) > 20


def test_seed_and_questions(store: Store, tmp_path: Path) -> None:
    other = stored(tmp_path / "raw", tmp_path / "s.zarr", 40, simulate_seed=1,
                   simulate_questions=("smooth-or-featured", "disk-edge-on"))
    assert votes_of(other) != votes_of(store)
    table = other.table(TABLE)
    edge_on = table.counts(other.ids, ["disk-edge-on-dr5_yes", "disk-edge-on-dr5_no"])
    featured = table.counts(other.ids, ["smooth-or-featured-dr5_featured-or-disk"])
    assert np.array_equal(edge_on.sum(axis=1), featured[:, 0])


def test_a_second_call_writes_nothing(store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in (store.path / "tables").rglob("*")}
    add_simulated_votes(store.path, GalaxyPrepare(simulate_votes_from="class"))
    assert {path: path.stat().st_mtime_ns for path in (store.path / "tables").rglob("*")} == before
    add_simulated_votes(store.path, GalaxyPrepare())
    assert Store(store.path).tables == store.tables


def test_wrong_columns(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"--simulate-votes-from clas: .*\. Did you mean 'class'\?"):
        add_simulated_votes(store.path, GalaxyPrepare(simulate_votes_from="clas"))
    with pytest.raises(ConfigError, match="has no such column"):
        add_simulated_votes(store.path, GalaxyPrepare(simulate_votes_from=COLUMNS[0]))
    with pytest.raises(DataError, match=r"no classes that votes can be drawn from, which are elliptical"):
        add_simulated_votes(store.path, GalaxyPrepare(simulate_votes_from="split"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"simulate_schema": "gzd9"}, "no label schema named 'gzd9'"),
        ({"simulate_questions": ("smooth",)}, "has no question 'smooth'"),
        ({"simulate_seed": -1}, "simulate_seed is -1; it must be 0 or more"),
    ],
)
def test_settings_are_checked_before_anything_is_prepared(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GalaxyPrepare(simulate_votes_from="class", **settings)
