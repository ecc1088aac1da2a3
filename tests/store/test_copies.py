"""Copies: the null of scores, its thresholds against a law that is known, and whom candidates name."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.errors import DataError
from sciencessl.store import copies
from sciencessl.store.copies import LEAST_SCORE, Null, candidates, fit_null, null_pairs, score_pairs
from sciencessl.views.polar import ANGLES, RINGS, align

LOCATION, SCALE = 0.45, 0.02


def gumbel(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gumbel(LOCATION, SCALE, n)


def fitted(scores: np.ndarray) -> Null:
    """The null of pairs that share no image."""
    return fit_null(scores, 2 * np.arange(len(scores)), 2 * np.arange(len(scores)) + 1)


def maps(n: int, seed: int) -> np.ndarray:
    """Maps of random waves, whose amplitudes differ from map to map."""
    rng = np.random.default_rng(seed)
    waves = np.fft.rfft(rng.normal(size=(n, RINGS, ANGLES)), axis=2) * rng.gamma(1, size=(n, RINGS, ANGLES // 2 + 1))
    return np.fft.irfft(waves, n=ANGLES, axis=2).astype("f4") / 3


def test_thresholds_follow_the_law_that_scores_were_drawn_from() -> None:
    null = fitted(gumbel(4096))
    assert null.median == pytest.approx(LOCATION - SCALE * np.log(np.log(2)), abs=0.002)
    for pairs, expected in ((10**4, 1.0), (10**7, 0.01)):
        exact = LOCATION + SCALE * np.log(pairs / expected)
        assert exact - SCALE / 2 < null.threshold(expected, pairs) < exact + 0.2 * SCALE * np.log(pairs / expected)


def test_fewer_false_confirmations_occur_than_are_expected() -> None:
    """200 stores of 100,000 pairs each: 2 are expected to hold one false confirmation; a raised scale keeps it so."""
    false = 0
    for seed in range(200):
        threshold = fitted(gumbel(1000, seed)).threshold(0.01, 100_000)
        rng = np.random.default_rng(10_000 + seed)
        # The largest of n of a Gumbel law is one of its draws, log n scales higher.
        false += rng.gumbel(LOCATION, SCALE) + SCALE * np.log(100_000) > threshold
    assert false <= 6


def test_a_few_images_that_are_more_alike_than_others_raise_the_threshold() -> None:
    """Tiles at the edge of tissue, for example: 3 % of the pairs have scores about twice as wide."""
    def scores(n: int, seed: int) -> np.ndarray:
        alike = np.random.default_rng(seed).random(n) < 0.03
        return np.where(alike, LOCATION + 0.05 + 1.9 * (gumbel(n, seed + 1) - LOCATION), gumbel(n, seed + 2))

    false = 0
    for seed in range(0, 300, 3):
        false += bool(scores(100_000, 10_000 + seed).max() > fitted(scores(4096, seed)).threshold(0.01, 100_000))
    assert false <= 10


@pytest.mark.parametrize("share", [0.005, 0.05, 0.1])
def test_copies_in_the_sample_do_not_raise_the_threshold(share: float) -> None:
    scores = gumbel(4000)
    clean = fitted(scores).threshold(0.01, 10**6)
    mixed = scores.copy()
    mixed[: int(share * 4000)] = 0.9
    null = fitted(mixed)
    assert null.dropped == int(share * 4000)
    assert null.threshold(0.01, 10**6) == pytest.approx(clean, abs=0.03)


def test_a_threshold_is_never_below_what_was_seen_or_the_least() -> None:
    narrow = fitted(np.full(200, 0.1))
    assert narrow.threshold(1, 10) == LEAST_SCORE
    wide = fitted(gumbel(500))
    assert wide.threshold(1e9, 10) == wide.largest > LEAST_SCORE
    with pytest.raises(DataError, match=r"99 pairs of images are too few to measure a null; 100 are needed"):
        fitted(gumbel(99))


def test_copies_of_one_image_are_copies_of_each_other() -> None:
    left, right = null_pairs(40, np.random.default_rng(0))
    scores = gumbel(len(left))
    alike = (left < 3) & (right < 3)
    scores[alike] = np.array([0.9, 0.9, LOCATION + 5 * SCALE])
    null = fit_null(scores, left, right)
    assert (null.dropped, null.pairs) == (3, len(left) - 3)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 90, 91, 200])
def test_pairs_are_drawn_once_each(n: int) -> None:
    left, right = null_pairs(n, np.random.default_rng(n))
    different = {*zip(left.tolist(), right.tolist(), strict=True)}
    assert len(left) == len(different) == min(n * (n - 1) // 2, copies.NULL_PAIRS)
    assert ((left >= 0) & (left < right) & (right < max(n, 1))).all()


def test_candidates_are_the_copies_whatever_the_turn_hand_or_block(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = maps(60, 0)
    wanted = np.random.default_rng(1).permutation(60)[:25]
    test = np.stack([np.roll(pool[at][:, :: (-1) ** at], 11 * at, axis=1) for at in wanted])
    found = candidates(pool, test)
    assert found.shape == (25, copies.NEIGHBOURS)
    assert (found[:, 0] == wanted).all()
    assert all(len(set(row)) == copies.NEIGHBOURS for row in found.tolist())
    monkeypatch.setattr(copies, "BLOCK", 7)
    assert (candidates(pool, test)[:, 0] == wanted).all()
    assert candidates(pool[:2], test).shape == (25, 2)
    assert candidates(pool, test[:0]).shape == (0, copies.NEIGHBOURS)


def test_pairs_are_scored_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = maps(5, 2), maps(6, 3)
    left, right = np.array([0, 4, 2, 2, 1]), np.array([5, 0, 1, 1, 3])
    whole = align(one[left], two[right])
    monkeypatch.setattr(copies, "ALIGNED", 2)
    parts = score_pairs(one, two, left, right)
    np.testing.assert_allclose(parts.score, whole.score, atol=1e-6)
    np.testing.assert_array_equal(parts.turn_deg, whole.turn_deg)
    assert len(score_pairs(one, two, left[:0], right[:0]).score) == 0
