"""Readings whose state is known, and the words for it."""

from __future__ import annotations

import pytest

from sciencessl.monitor.collapse import LOW_RANK, LOW_SHARE, LOW_STD, collapse_warnings

HEALTHY: dict[str, float | None] = {
    "std": 0.6, "effective_rank": 20.0, "rank_limit": 63.0, "projection_std": 0.8, "projection_rank": 12.0,
    "predictor_distance": 1.2, "target_distance": 0.02,
}


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"std": 0.034}, "point", "to a point: its spread is 0.034 of an even one (healthy: above 0.1)"),
        ({"effective_rank": 1.2}, "line", "collapsed to a line: it uses 1.2 directions (healthy: above 2)"),
        ({"effective_rank": 3.1}, "dimensional", "uses 3.1 of the 63 directions that the rows read could show"),
        ({"projection_std": 0.01}, "projection", "projection has collapsed to a point (spread 0.010 of an even one"),
        ({"projection_rank": 1.5}, "projection", "the projection has collapsed to a line (1.5 directions"),
        ({"target_distance": 0.0, "predictor_distance": None}, "no_predictor", "equals the online one"),
        ({"target_distance": 0.0, "predictor_distance": 0.0}, "no_predictor", "no predictor"),
    ],
)
def test_each_collapse_has_its_words_and_what_to_do(changed: dict[str, float], kind: str, words: str) -> None:
    found = collapse_warnings({**HEALTHY, **changed})
    assert list(found) == [kind]
    assert words in found[kind]
    assert "options.tau_base" in found[kind]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"std": LOW_STD, "effective_rank": LOW_RANK, "rank_limit": LOW_RANK / LOW_SHARE},
        {"projection_std": LOW_STD, "projection_rank": LOW_RANK},
        {"target_distance": 0.0},  # a predictor stands between: SimSiam
        {"predictor_distance": 0.0},  # the target lags
    ],
)
def test_at_the_thresholds_all_is_well(changed: dict[str, float]) -> None:
    assert collapse_warnings({**HEALTHY, **changed}) == {}


def test_only_the_worst_of_the_representation_is_told() -> None:
    found = collapse_warnings({**HEALTHY, "std": 0.0, "effective_rank": 1.0, "projection_std": 0.0})
    assert list(found) == ["point"]
    assert list(collapse_warnings({**HEALTHY, "effective_rank": 1.0, "target_distance": 0.0,
                                   "predictor_distance": None})) == ["line", "no_predictor"]


def test_what_was_not_read_is_not_judged() -> None:
    assert collapse_warnings({}) == {}
    assert collapse_warnings({"std": None, "effective_rank": None}) == {}
    # Labels pull the samples of a class together on purpose: four classes are three directions.
    assert collapse_warnings({"std": 0.9, "effective_rank": 3.0, "rank_limit": 500.0}) == {}
