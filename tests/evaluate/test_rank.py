"""`rank` on a small store."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.cli import run as command
from sciencessl.errors import ConfigError, DataError, RunError
from sciencessl.evaluate.embed import embed
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.rank import rank
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove

NAMES = [f"g{i:03d}" for i in range(36)]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    """36 galaxies; g001 and g004 lie 1 arcsec apart across RA 0, g007 and g010 are one group; g013 is withdrawn."""
    columns = {
        name: {"ra": 10.0 + i, "dec": 0.0, "group": name if i != 10 else "g007", "mag": 17.0 + i / 10}
        for i, name in enumerate(NAMES)
    }
    columns["g001"]["ra"], columns["g004"]["ra"] = 0.5 / 3600, 360 - 0.5 / 3600
    store = make_store(tmp_path_factory.mktemp("rank") / "s.zarr", NAMES, columns=columns)
    remove(store.path, ["g013"], reason="a test")
    return Store(store.path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, placed: Store, make_run: Any) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first", placed)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "ranking.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_similar_samples_are_those_of_greatest_cosine(tmp_path: Path, placed: Store, encoder: Path) -> None:
    found = rank(encoder, placed.path, tmp_path / "out", similar_to=["g002"], n=5)
    index = np.array([i for i, name in enumerate(placed.ids) if name != "g013"])
    values = compute_embeddings(run_encoder(encoder), placed, index, workers=0)
    centred = values - values.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    names = [placed.ids[i] for i in index]
    product = unit @ unit[names.index("g002")]
    expected = [names[i] for i in np.argsort(-product) if names[i] != "g002"][:5]
    assert [row.id for row in found.rows] == expected
    assert found.rows[0].score == pytest.approx(np.sort(product)[-2], abs=1e-4)
    assert (found.ranked, found.left_out) == (34, {"an example itself": 1})
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == ["rank", "id", "score", "nearest", "ra", "dec"]
    assert [row["id"] for row in rows] == expected
    assert float(rows[0]["ra"]) == placed.column("ra")[placed.ids.index(expected[0])]
    sheet = cv2.imread(str(tmp_path / "out" / "sheet.png"))
    assert sheet.shape[1] > 5 * 112
    assert json.loads((tmp_path / "out" / "ranking.json").read_text())["rows"][0]["id"] == expected[0]


def test_the_same_object_is_left_out_by_place_and_by_group(tmp_path: Path, placed: Store, encoder: Path) -> None:
    found = rank(encoder, placed.path, tmp_path / "out", similar_to=["g001", "g007"], n=100)
    assert found.left_out == {"an example itself": 2, "in the group of an example": 1,
                              "same sky position as an example": 1}
    assert {row.id for row in found.rows} == set(NAMES) - {"g001", "g004", "g007", "g010", "g013"}
    assert {row.nearest for row in found.rows} <= {"g001", "g007"}


def test_examples_may_be_of_another_split_than_the_ranked(tmp_path: Path, placed: Store, encoder: Path) -> None:
    example = placed.ids[int(placed.split("train").all()[0])]
    found = rank(encoder, placed.path, tmp_path / "out", similar_to=[example], n=100, split="test")
    assert {row.id for row in found.rows} == {placed.ids[i] for i in placed.split("test").all()}
    assert not found.left_out


def test_embeddings_of_an_earlier_embed_give_the_same_ranks(tmp_path: Path, placed: Store, encoder: Path) -> None:
    embed(encoder, placed.path, tmp_path / "emb")
    first = rank(encoder, placed.path, tmp_path / "a", anomalies=True, n=7)
    second = rank(tmp_path / "emb", placed.path, tmp_path / "b", anomalies=True, n=7)
    assert [(row.id, pytest.approx(row.score, abs=1e-4)) for row in first.rows] == [
        (row.id, row.score) for row in second.rows]
    assert not (tmp_path / "b" / "embeddings").exists()
    assert [row.score for row in first.rows] == sorted((row.score for row in first.rows), reverse=True)
    embed(encoder, placed.path, tmp_path / "test", split="test")
    with pytest.raises(DataError, match=r"no embedding of \d+ of the 35 samples that are needed, .*--split all"):
        rank(tmp_path / "test", placed.path, tmp_path / "c", anomalies=True)


def test_a_class_is_found_beside_random_encoders(tmp_path: Path, placed: Store, encoder: Path) -> None:
    found = rank(encoder, placed.path, tmp_path / "out", similar_to=["g002", "g005"], n=8, find="class=spiral",
                 random_encoders=2)
    judged = found.judged
    assert judged is not None
    assert [(each.encoder, each.encoders) for each in judged.found] == [("first", 1), ("random", 2)]
    assert (judged.members, judged.labelled, judged.top) == (10, 33, 8)
    hits = sum(int(row.id[1:]) % 3 == 2 for row in found.rows)
    assert judged.found[0].in_top == pytest.approx(hits)
    assert judged.chance == pytest.approx(10 / 33)
    assert "Test samples were seen" in judged.mark
    # All is there now: a second call embeds nothing, and says the same.
    again = rank(encoder, placed.path, tmp_path / "out", similar_to=["g002", "g005"], n=8, find="class=spiral",
                 random_encoders=2)
    assert again.judged == judged


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, placed: Store, encoder: Path) -> None:
    found = rank(encoder, placed.path, tmp_path / "out", anomalies=True, find="class=spiral", random_encoders=3,
                 dry_run=True)
    assert (found.missing, found.ranked, found.rows) == (35 * 7, 35, ())
    assert found.seconds > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "words"), [
    ({}, "rank needs --similar-to ID... or --anomalies, one of them; neither was given"),
    ({"similar_to": ["g002"], "anomalies": True}, "both were given"),
    ({"similar_to": ["g02"]}, r"no such id. Did you mean 'g0\d2'\? Its 36 ids look like"),
    ({"similar_to": ["g013"]}, "--similar-to g013: the sample was withdrawn"),
    ({"anomalies": True, "n": 0}, "--n is 0; it must be 1 or more"),
    ({"anomalies": True, "keep": ["score"]}, "--keep score"),
])
def test_what_cannot_be_ranked_is_said(
    tmp_path: Path, placed: Store, encoder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, DataError, RunError), match=words):
        rank(encoder, placed.path, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_the_command_lists_and_keeps_other_rankings(
    tmp_path: Path, placed: Store, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rank", str(encoder), "--data", str(placed.path), "--out", str(tmp_path / "out"), "--n", "3"]
    assert command([*words, "--anomalies", "--keep", "mag"]) == 0
    assert "35 samples" in capsys.readouterr().out
    assert list(rows_of(tmp_path / "out")[0]) == ["rank", "id", "score", "ra", "dec", "mag"]
    assert command([*words, "--similar-to", "g002"]) == 1
    assert "holds a ranking of other samples, embeddings or settings" in capsys.readouterr().err
    assert command([*words, "--similar-to", "g002", "--overwrite", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 3
