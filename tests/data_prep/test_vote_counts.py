"""Votes read from a catalogue: whole and weighted counts, fractions multiplied out, and what is no vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.data_prep.catalogue import Catalogue
from sciencessl.data_prep.vote_columns import match_columns
from sciencessl.data_prep.vote_counts import over_asked, read_votes
from sciencessl.errors import DataError
from sciencessl.spec import LabelSchema, Question

SMOOTH, DISC = SHAPE = ("shape_smooth", "shape_disc")
RINGS = LabelSchema("rings", (Question("shape", ("smooth", "disc")), Question("ring", ("yes", "no"), (DISC,))))
IDS = ["g0", "g1", "g2"]


def read(columns: dict[str, Sequence[Any]], form: str = "", guess: bool = True) -> dict[str, list[float]]:
    catalogue = Catalogue(pa.table(columns), "cat.csv", None, "")
    counts, _ = read_votes(catalogue, IDS, match_columns(RINGS, list(columns), form), guess)
    assert all(values.dtype == np.float32 for values in counts.values())
    return {column: values.tolist() for column, values in counts.items()}


def test_weighted_counts_stay_as_they_are() -> None:
    found = read({SMOOTH: ["10.5", "0.25", None], DISC: ["1", "3.75", "0"]})
    assert found == {SMOOTH: [10.5, 0.25, 0.0], DISC: [1.0, 3.75, 0.0]}


def test_fractions_times_totals_are_the_counts_they_came_from() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20, (3, 2))
    counts[1] = 0
    total = counts.sum(axis=1)
    shares = [[f"{k / n:.3f}" if n else None for k, n in zip(column, total, strict=True)] for column in counts.T]
    found = read({f"{SMOOTH}_fraction": shares[0], f"{DISC}_fraction": shares[1], "shape_total-votes": total.tolist()})
    assert [found[SMOOTH], found[DISC]] == counts.T.tolist()


def test_weighted_fractions_stay_between_whole_votes() -> None:
    found = read({f"{SMOOTH}_frac": [0.125, 0, 1], f"{DISC}_frac": [0.875, 1, 0], "shape_count": [10, 3, 4]})
    assert found == {SMOOTH: [1.25, 0, 4], DISC: [8.75, 3, 0]}


def test_a_question_without_a_total_was_put_to_those_whom_its_parents_led_there() -> None:
    found = read({
        f"{SMOOTH}_fraction": [0.5, 1.0, 0.0], f"{DISC}_fraction": [0.5, 0.0, 1.0],
        "ring_yes_fraction": [0.25, None, 1.0], "ring_no_fraction": [0.75, None, 0.0],
        "num_classifications": [40, 40, 2],
    })
    assert found == {SMOOTH: [20, 40, 0], DISC: [20, 0, 2], "ring_yes": [5, 0, 2], "ring_no": [15, 0, 0]}


def test_fractions_in_count_columns_are_multiplied_where_totals_are_there() -> None:
    columns: dict[str, Sequence[Any]] = {SMOOTH: [0.5, 1.0, 0.0], DISC: [0.5, 0.0, 0.0], "shape_total-votes": [8, 3, 0]}
    assert read(columns) == {SMOOTH: [4, 3, 0], DISC: [4, 0, 0]}
    assert read(columns, "fractions") == read(columns)
    with pytest.raises(DataError, match=r"fractions where counts are needed.*pass --votes-from fractions"):
        read(columns, "counts", guess=False)
    del columns["shape_total-votes"]
    with pytest.raises(DataError, match=r"fractions where counts are needed.*in columns such as shape_total-votes"):
        read(columns)


def test_nan_fractions_of_nobody_are_no_votes() -> None:
    columns: dict[str, Sequence[Any]] = {
        f"{SMOOTH}_fraction": [0.5, np.nan, 1.0], f"{DISC}_fraction": [0.5, np.nan, 0.0],
        "shape_total-votes": [4, 0, 1],
    }
    assert read(columns) == {SMOOTH: [2, 0, 1], DISC: [2, 0, 0]}
    columns["shape_total-votes"] = [4, 2, 1]
    with pytest.raises(DataError, match=r"'shape_smooth_fraction': 1 value\(s\).*the first nan at id 'g1'"):
        read(columns)


@pytest.mark.parametrize(("column", "values", "message"), [
    (f"{SMOOTH}_fraction", [0.5, 45.0, 0.5], r"'shape_smooth_fraction': 1 value\(s\) are negative or not finite or "
                                             "above 1, the first 45 at id 'g1'. Fractions of votes are 0 to 1"),
    (f"{DISC}_fraction", [0.5, -0.5, 0.5], "'shape_disc_fraction'.*the first -0.5 at id 'g1'"),
    ("shape_total-votes", [1, -9, 1], "'shape_total-votes'.*the first -9 at id 'g1'. Votes are counts from 0"),
    ("shape_total-votes", ["1", "9", "many"], "'shape_total-votes': expected numbers, got text: 'many' at id 'g2'"),
])
def test_what_is_no_fraction_is_named_by_row_and_column(column: str, values: list[Any], message: str) -> None:
    good: dict[str, Sequence[Any]] = {f"{SMOOTH}_fraction": [1.0] * 3, f"{DISC}_fraction": [0.0] * 3,
                                      "shape_total-votes": [3] * 3}
    with pytest.raises(DataError, match=message):
        read({**good, column: values})


@pytest.mark.parametrize(("values", "message"), [
    (["1", "-2", "1"], r"'shape_smooth': 1 value\(s\) are negative or not finite, the first -2 at id 'g1'"),
    (["nan", "2", "nan"], r"2 value\(s\) are negative or not finite, the first nan at id 'g0'"),
    (["1", "1", "inf"], "negative or not finite, the first inf at id 'g2'"),
    (["1", "2", "a few"], "cat.csv, vote column 'shape_smooth': expected numbers, got text: 'a few' at id 'g2'"),
    (["1", "", "1"], "got text: '' at id 'g1'"),
])
def test_votes_that_are_no_counts_are_named_by_row_and_column(values: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read({SMOOTH: values, DISC: ["1", "1", "1"]})


def test_more_votes_than_the_tree_allows_are_told() -> None:
    counts = {SMOOTH: [1, 2, 3], DISC: [4, 0, 2.6], "ring_yes": [3, 1, 2], "ring_no": [1, 2, 1]}
    found = over_asked({name: np.array(values, float) for name, values in counts.items()}, RINGS, IDS)
    assert len(found) == 1
    assert found[0].startswith(
        "votes: in 1 rows a question has more votes than the answers that lead to it; at id 'g1' ring has 3, "
        "shape_disc 0."
    )
    assert over_asked({name: np.ones(3) * (2 if name == DISC else 1) for name in counts}, RINGS, IDS) == []
    assert over_asked({"ring_yes": np.ones(3), "ring_no": np.ones(3)}, RINGS, IDS) == []
