"""The mixing score against closed forms: pure, alternating and random batches, and pairs counted one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from sciencessl.data.mixing import mixing_score
from sciencessl.data.order import Int64, Order


@dataclass(frozen=True)
class Listed(Order):
    """An order that is a list."""

    sequence: np.ndarray = field(default_factory=lambda: np.arange(1))

    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        return np.zeros(stop - start, np.int64), self.sequence[start:stop]


def listed(sequence: np.ndarray, batch: int) -> Listed:
    return Listed(len(sequence), 0, batch, sequence=sequence)


def test_sorted_classes_read_in_order_score_the_batch() -> None:
    n, batch = 4096, 64
    found = mixing_score(listed(np.arange(n), batch), np.repeat([0, 1], n // 2))
    assert found.score == pytest.approx(batch * (n - 1) / (n - batch), rel=1e-12)
    assert found.error == pytest.approx(0)


def test_classes_in_turn_score_nothing() -> None:
    assert mixing_score(listed(np.arange(4096), 64), np.arange(4096) % 4).score == 0


def test_samples_that_are_each_their_own_category_always_score_one() -> None:
    found = mixing_score(listed(np.arange(1000), 50), np.arange(1000)[::-1].copy())
    assert found.score == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.09, 0.01], [0.01] * 100])
def test_random_permutations_score_one_on_average_and_by_their_error(shares: list[float]) -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(len(shares)), np.round(np.array(shares) * 2000).astype(int))
    found = [mixing_score(listed(rng.permutation(2000), 100), codes) for _ in range(200)]
    scores, errors = np.array(found).T
    assert abs(scores.mean() - 1) < 5 * scores.std() / np.sqrt(200)
    # Windows of one epoch are not independent: what one holds the next one lacks.
    assert scores.std() < 1.2 * np.median(errors)


def test_the_training_order_of_a_shuffled_store_mixes_and_of_a_sorted_one_it_says_how_far() -> None:
    """A sorted class lies in one unit: 4 samples of 4 units of 3 then hold 6 * 2 / 11 pairs too many a ticket."""
    n, order = 100_000, Order(100_000, 0, 256, longest_run=3)
    assert (order.unit, order.ticket_size, order.mix_units) == (3, 4, 4)
    classes = np.arange(n) * 10 // n
    shuffled = mixing_score(order, np.random.default_rng(0).permutation(classes))
    assert abs(shuffled.score - 1) < 4 * shuffled.error
    in_order = mixing_score(order, classes)
    assert abs(in_order.score - (1 + 2 * 64 * 6 * 2 / 11 / 256)) < 4 * in_order.error
    assert max(shuffled.error, in_order.error) < 0.15


def test_with_many_categories_it_counts_the_alike_in_a_batch() -> None:
    n, rows, batch = 10**6, 1000, 64
    order = Order(n, 0, batch, slots=8)
    codes = np.arange(n) // (n // rows)
    pairs = []
    for step in np.unique(np.linspace(0, n // batch - 1, 20).astype(int)):
        row = codes[order.positions(int(step))]
        pairs.append(sum(int((row[i] == row[i + 1 :]).sum()) for i in range(batch)))
    expected = (rows / batch * (batch + 2 * np.mean(pairs)) - batch) / ((rows - 1) * (n - batch) / (n - 1))
    found = mixing_score(order, codes, windows=20)
    assert found.score == pytest.approx(expected, rel=1e-9)
    assert found.score > 1.3


def test_too_little_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="mixing needs 2 batches and 2 categories; 100 samples in batches of 64, 2"):
        mixing_score(Order(100, 0, 64), np.arange(100) % 2)
    with pytest.raises(ValueError, match="mixing needs"):
        mixing_score(Order(1000, 0, 64), np.zeros(1000, np.int64))
