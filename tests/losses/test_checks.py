from __future__ import annotations

import pytest
import torch

from sciencessl.errors import DataError
from sciencessl.losses.checks import check_classes, check_counts


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_bad_votes_are_named_by_row_and_column(bad: float) -> None:
    counts = torch.zeros(4, 5)
    counts[2, 3] = bad
    with pytest.raises(DataError, match="row 2, column 3"):
        check_counts(counts)


def test_good_and_empty_votes_pass() -> None:
    check_counts(torch.tensor([[0.0, 0.25], [7.0, 0.0]]))
    check_counts(torch.zeros(0, 3))


@pytest.mark.parametrize("bad", [3, -2])
def test_a_class_out_of_range_is_named(bad: int) -> None:
    with pytest.raises(DataError, match=f"row 1 has class {bad}"):
        check_classes(torch.tensor([0, bad, 2]), 3)


def test_good_unlabelled_and_empty_classes_pass() -> None:
    check_classes(torch.tensor([0, -1, 2]), 3)
    check_classes(torch.zeros(0, dtype=torch.int64), 3)


def test_tensors_without_readable_values_are_not_read() -> None:
    check_counts(torch.zeros(2, 2, device="meta"))
    check_classes(torch.zeros(2, dtype=torch.int64, device="meta"), 3)
