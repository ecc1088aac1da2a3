"""Areas, votes and counts as columns."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep.cell_counts import CellCounts
from sciencessl.data_prep.region_areas import ClassAreas
from sciencessl.data_prep.tile_columns import area_columns, cell_columns, vote_columns
from sciencessl.errors import DataError


def areas(classes: tuple[str, ...], *shares: tuple[float, ...]) -> ClassAreas:
    share = np.array(shares, np.float32).reshape(len(shares), len(classes))
    return ClassAreas(classes, share, share > 0.5)


def test_slides_with_other_classes_share_the_columns() -> None:
    slides = [areas(("tissue", "tumor"), (1, 0.75), (1, 0)), areas(("fat",), (0.25,))]
    columns, order = area_columns("region", slides, (), "any", None)
    assert order == ["fat", "tumor", "tissue"]  # the rarer first: what was drawn within another goes before it
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "area_fat": [0, 0, 0.25], "area_tumor": [0.75, 0, 0], "area_tissue": [1, 1, 0],
        "region": ["tumor", "tissue", "fat"]}


def test_classes_that_are_given_set_the_order() -> None:
    columns, order = area_columns("region", [areas(("tissue", "tumor"), (1, 0.75))], ("tissue", "tumor"), "any", None)
    assert order == ["tissue", "tumor"]
    assert columns["region"].to_pylist() == ["tissue"]


def test_raters_vote_for_the_class_of_their_own_areas() -> None:
    slide = {"ann": areas(("a", "b"), (0.9, 0.0), (0.0, 0.8), (0, 0)), "bob": areas(("b",), (0.7,), (0.6,), (0.1,))}
    columns, schema = vote_columns("region", [slide, {"ann": areas(("a",), (1.0,))}], ("a", "b"), "majority", None)
    assert schema.columns == ("region_a", "region_b")
    assert columns["region_a"].to_pylist() == [1, 0, 0, 1]
    assert columns["region_b"].to_pylist() == [1, 2, 0, 0]


def test_cells_are_the_answers_of_one_question() -> None:
    slides = [CellCounts(("b",), np.array([[2], [0]])), CellCounts(("a",), np.array([[5]]))]
    columns, schema = cell_columns("cells", slides, ())
    assert [question.name for question in schema.questions] == ["cells"]
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "cells_a": [0, 0, 5], "cells_b": [2, 0, 0]}


def test_one_class_is_no_question() -> None:
    with pytest.raises(DataError, match="the only class is 'a': counts of a question need two or more"):
        cell_columns("cells", [CellCounts(("a",), np.array([[5]]))], ())
    with pytest.raises(DataError, match="the only class is 'a'"):
        vote_columns("region", [{"ann": areas(("a",), (1.0,))}], (), "majority", None)
