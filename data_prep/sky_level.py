"""The sky under a stamp and its noise, and what missing pixels are filled with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from sciencessl.data.order import derive_key

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FillPolicy = Literal["nan", "zero", "sky", "noise"]
"""What missing pixels hold: NaN, 0, the sky level, or the sky level with noise drawn from its standard deviation."""

CLIP_SIGMA = 3.0
CLIP_ROUNDS = 5
_SIGMA_OF_MAD = 1.482602218505602  # 1 / Phi^-1(3/4)


def sky_and_noise(stamps: np.ndarray, good: npt.NDArray[np.bool_] | None = None) -> tuple[Float64, Float64]:
    """Level and standard deviation of the background of each stamp: clipped median and scaled MAD.

    Pixels farther than 3 sigma from the median are dropped, at most 5 times, with sigma = 1.4826 MAD of those left.
    A source that fills part of a stamp pulls both up, since its outskirts are within 3 sigma. An exponential disk
    brighter than one sigma on 3 %, 13 % and 51 % of the pixels lifts the sky by 0.05, 0.2 and 1.1 sigma and the noise
    by 1 %, 8 % and 40 %; on all of them it leaves no sky to find. Take stamps of a few times the galaxy's size.

    Args:
        stamps: (N, H, W) flux, unit a pixel. NaN and infinite pixels are left out.
        good: (N, H, W), False where a pixel is masked.

    Returns:
        (N,) float64 sky and (N,) float64 noise, unit a pixel; NaN where no pixel is left.

    Source: the estimator of `astropy.stats.sigma_clip` with median and MAD; one sort a stamp (ours).
    """
    values = np.where(np.isfinite(stamps) if good is None else good & np.isfinite(stamps), stamps, np.nan)
    values = values.reshape(len(stamps), int(np.prod(stamps.shape[1:])))
    values.sort(axis=1)  # NaN goes last
    begin = np.zeros(len(values), dtype=np.int64)
    end = np.isfinite(values).sum(axis=1)
    for _ in range(CLIP_ROUNDS):
        middle, sigma = _middle(values, begin, end), _SIGMA_OF_MAD * _mad(values, begin, end)
        kept_begin = _first(values, begin, end, middle - CLIP_SIGMA * sigma, np.greater_equal)
        kept_end = _first(values, kept_begin, end, middle + CLIP_SIGMA * sigma, np.greater)
        if ((kept_begin == begin) & (kept_end == end)).all():
            break
        begin, end = kept_begin, kept_end
    return _middle(values, begin, end), _SIGMA_OF_MAD * _mad(values, begin, end)


def _first(values: np.ndarray, begin: Int64, end: Int64, bound: Float64, passes: np.ufunc) -> Int64:
    """First place in [begin, end) of sorted rows whose value passes a bound; end where none does."""
    low, high = begin, end
    while (low < high).any():
        middle = (low + high) // 2
        there = passes(_at(values, middle), bound)
        low, high = np.where((low < high) & ~there, middle + 1, low), np.where((low < high) & there, middle, high)
    return low


def _at(values: np.ndarray, places: Int64) -> Float64:
    """One value of each row, as float64; places beyond a row are drawn to its ends."""
    clipped = np.clip(places, 0, values.shape[1] - 1)
    return np.take_along_axis(values, clipped[:, None], axis=1)[:, 0].astype(np.float64)


def _middle(values: np.ndarray, begin: Int64, end: Int64) -> Float64:
    """Median of values[begin:end] of sorted rows; NaN where that is empty."""
    count = end - begin
    median = (_at(values, begin + (count - 1) // 2) + _at(values, begin + count // 2)) / 2
    return np.where(count > 0, median, np.nan)


def _mad(values: np.ndarray, begin: Int64, end: Int64) -> Float64:
    """Median distance of values[begin:end] of sorted rows from their median; NaN where that is empty."""
    count, middle = end - begin, _middle(values, begin, end)
    both = _nearest(values, begin, end, middle, (count - 1) // 2) + _nearest(values, begin, end, middle, count // 2)
    return np.where(count > 0, both / 2, np.nan)


def _nearest(values: np.ndarray, begin: Int64, end: Int64, middle: Float64, k: Int64) -> Float64:
    """Distance from the median to the k-th nearest value (from 0): a search for the k + 1 neighbours in sorted rows.

    They are `below` values left of the split and k + 1 - below right of it. The right `below` is the smallest whose
    next value to the left is no nearer than the last one to the right.
    """
    split = begin + (end - begin) // 2
    low, high = np.maximum(0, k + 1 - (end - split)), np.minimum(k + 1, split - begin)
    while (low < high).any():
        below = (low + high) // 2
        left, right = middle - _at(values, split - below - 1), _at(values, split + k - below) - middle
        nearer = (low < high) & (left < right)
        low, high = np.where(nearer, below + 1, low), np.where(nearer, high, np.minimum(high, below))
    left = np.where(low > 0, middle - _at(values, split - low), 0.0)
    right = np.where(low <= k, _at(values, split + k - low) - middle, 0.0)
    return np.maximum(left, right)


def fill_missing(
    stamps: np.ndarray,
    missing: npt.NDArray[np.bool_],
    policy: FillPolicy,
    sky: npt.ArrayLike = np.nan,
    noise: npt.ArrayLike = np.nan,
    keys: Sequence[int | str] = (),
) -> None:
    """Write what a policy says into the missing pixels, in place.

    Args:
        stamps: (N, H, W) or (N, C, H, W) floats.
        missing: The same shape, True where a pixel has no value.
        policy: What missing pixels hold. A stamp without sky (NaN) stays NaN under `sky` and `noise`.
        sky: (N,) or (N, C) level, unit a pixel.
        noise: The same, standard deviation.
        keys: Key of each sample, its own in the survey: `noise` draws the same for it whatever it is prepared beside.
    """
    if policy in ("nan", "zero"):
        stamps[missing] = np.nan if policy == "nan" else 0.0
        return
    level = np.broadcast_to(np.asarray(sky)[..., None, None], stamps.shape)
    stamps[missing] = level[missing]
    if policy == "noise":
        scatter = np.broadcast_to(np.asarray(noise)[..., None, None], stamps.shape)
        for i in np.flatnonzero(missing.any(axis=tuple(range(1, missing.ndim)))).tolist():
            rng = np.random.Generator(np.random.Philox(key=derive_key("fill", keys[i])))
            holes = missing[i]
            stamps[i][holes] += scatter[i][holes] * rng.standard_normal(int(holes.sum()))
