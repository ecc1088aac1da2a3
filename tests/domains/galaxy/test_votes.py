"""Votes drawn down the tree, and simulated votes on real images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.domains.galaxy.votes import CLASS_FRACTIONS, CONCENTRATION, SIMULATED, simulate_votes, votes_from_class
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import LabelSchema


def random_fractions(schema: LabelSchema, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.dirichlet(np.ones(len(q.answers)), n) for q in schema.questions], axis=1)


def totals(schema: LabelSchema, votes: np.ndarray) -> dict[str, np.ndarray]:
    return {q.name: votes[:, a:b].sum(axis=1) for q, (a, b) in zip(schema.questions, schema.groups, strict=True)}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_votes_are_conserved_down_the_tree(name: str) -> None:
    schema = SCHEMAS[name]
    looking = np.random.default_rng(1).integers(0, 50, size=200)
    votes = simulate_votes(schema, random_fractions(schema, 200, 2), looking, np.random.default_rng(3))
    answered = totals(schema, votes)
    assert votes.dtype == np.int64
    for question in schema.questions:
        parents = [schema.columns.index(column) for column in question.after]
        expected = votes[:, parents].sum(axis=1) if parents else looking
        np.testing.assert_array_equal(answered[question.name], expected)


def test_several_parents_sum_by_hand() -> None:
    schema = SCHEMAS["gzd5"].only(["smooth-or-featured", "merging"])
    fractions = np.array([[0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    votes = simulate_votes(schema, fractions, 30, np.random.default_rng(0))
    assert votes[0, :3].sum() == 30
    assert 0 < votes[0, 0] < 30
    assert votes[0, 3:].tolist() == [30, 0, 0, 0]
    assert votes[1].tolist() == [0, 0, 30, 0, 0, 0, 0]


def test_mean_votes_follow_fractions_and_asked_probability() -> None:
    schema = SCHEMAS["gzd5"]
    fractions = np.repeat(random_fractions(schema, 1, 5), 4000, axis=0)
    votes = simulate_votes(schema, fractions, 30, np.random.default_rng(6))
    asked = np.repeat(schema.asked_probability(fractions[:1]), [len(q.answers) for q in schema.questions], axis=1)[0]
    # 4000 galaxies of 30 volunteers: a standard error below 0.5 / sqrt(120000) = 0.0014 in the fraction of all.
    np.testing.assert_allclose(votes.mean(axis=0) / 30, asked * fractions[0], atol=0.008)


def test_no_volunteers_no_votes() -> None:
    schema = SCHEMAS["gz2"]
    votes = simulate_votes(schema, random_fractions(schema, 3, 0), np.array([0, 5, 0]), np.random.default_rng(0))
    assert votes.any(axis=1).tolist() == [False, True, False]


def test_votes_are_a_function_of_the_generator() -> None:
    schema = SCHEMAS["hubble"]
    fractions = random_fractions(schema, 20, 0)
    first, again, other = (simulate_votes(schema, fractions, 30, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f[:, 1:], r"needs shape \(N, 34\), got \(2, 33\)"),
        (lambda f: f * 1.01, "sum to 1.01 in row 0"),
        (lambda f: -f, "finite and 0 or more"),
        (lambda f: f * np.nan, "finite and 0 or more"),
    ],
)
def test_fractions_are_checked(change: object, says: str) -> None:
    schema = SCHEMAS["gzd5"]
    assert callable(change)
    with pytest.raises(DataError, match=says):
        simulate_votes(schema, change(random_fractions(schema, 2, 0)), 5, np.random.default_rng(0))


@pytest.mark.parametrize("volunteers", [-1, np.array([1, 2, 3]), np.array([0.5, 1.0])])
def test_volunteers_are_checked(volunteers: int | np.ndarray) -> None:
    schema = SCHEMAS["gzd5"]
    with pytest.raises(DataError, match="volunteers: expected"):
        simulate_votes(schema, random_fractions(schema, 2, 0), volunteers, np.random.default_rng(0))


def test_class_fractions_sum_to_one() -> None:
    for means in CLASS_FRACTIONS.values():
        for values in means.values():
            assert sum(values) == pytest.approx(1.0)


def test_votes_from_class_follow_the_class_means() -> None:
    schema = SCHEMAS["gzd5"]
    for name, means in CLASS_FRACTIONS.items():
        votes, _ = votes_from_class(schema, [name] * 3000, np.random.default_rng(0), volunteers=(30, 30))
        drawn = votes[:, :3] / 30
        np.testing.assert_allclose(drawn.mean(axis=0), means["smooth-or-featured"], atol=0.025)
        p = means["smooth-or-featured"][0]
        # Dirichlet-multinomial: var(k / n) = p (1 - p) (n + c) / (n (1 + c)).
        expected = p * (1 - p) * (30 + CONCENTRATION[name]) / (30 * (1 + CONCENTRATION[name]))
        assert drawn[:, 0].var() == pytest.approx(expected, rel=0.12)


def test_vague_classes_are_broader() -> None:
    assert max(CONCENTRATION["merger"], CONCENTRATION["dont-know"]) < min(
        CONCENTRATION[name] for name in CLASS_FRACTIONS if name not in ("merger", "dont-know")
    )


def test_votes_from_class_keep_the_tree_and_leave_the_rest_at_zero() -> None:
    schema = SCHEMAS["gzd5"]
    votes, description = votes_from_class(schema, ["spiral-clockwise", "merger"] * 50, np.random.default_rng(4))
    answered = totals(schema, votes)
    np.testing.assert_array_equal(answered["merging-dr5"], votes[:, 0] + votes[:, 1])
    np.testing.assert_array_equal(answered["disk-edge-on-dr5"], votes[:, 1])
    np.testing.assert_array_equal(
        answered["has-spiral-arms-dr5"], votes[:, schema.columns.index("disk-edge-on-dr5_no")]
    )
    silent = set(answered) - set(description["questions"])
    assert silent == {f"{q}-dr5" for q in ("bar", "bulge-size", "how-rounded", "edge-on-bulge", "spiral-winding",
                                          "spiral-arm-count")}
    assert all(not answered[name].any() for name in silent)
    assert answered["smooth-or-featured-dr5"].min() >= 20
    assert answered["smooth-or-featured-dr5"].max() <= 40


def test_unknown_class_gets_no_votes() -> None:
    votes, description = votes_from_class(
        SCHEMAS["gzd5"], ["elliptical", "star", "", None, "edge-on"], np.random.default_rng(0)
    )
    assert votes.any(axis=1).tolist() == [True, False, False, False, True]
    assert description["without_class"] == 3
    assert description["galaxies"]["edge-on"] == 1


def test_description_is_provenance() -> None:
    classes = ["elliptical", "merger"] * 10
    first, description = votes_from_class(SCHEMAS["gz2"], classes, np.random.default_rng(77))
    again, same = votes_from_class(SCHEMAS["gz2"], classes, np.random.default_rng(77))
    np.testing.assert_array_equal(first, again)
    assert description == same
    assert json.loads(json.dumps(description)) == description
    assert description["what"] == SIMULATED == "simulated votes on real images"
    assert description["seed"] == 77
    assert description["questions"] == [f"{q}-gz2" for q in ("smooth-or-featured", "disk-edge-on", "has-spiral-arms")]
    advanced = np.random.default_rng(77)
    advanced.random()
    assert votes_from_class(SCHEMAS["gz2"], classes, advanced)[1]["state_before"] != description["state_before"]


def test_votes_from_class_checks_its_parameters() -> None:
    schema, rng = SCHEMAS["gzd5"], np.random.default_rng(0)
    with pytest.raises(ConfigError, match="says nothing about its questions"):
        votes_from_class(schema.only(["bar", "how-rounded"]), ["merger"], rng)
    with pytest.raises(ConfigError, match="least <= greatest"):
        votes_from_class(schema, ["merger"], rng, volunteers=(9, 3))
    with pytest.raises(ConfigError, match="positive number for each class"):
        votes_from_class(schema, ["merger"], rng, concentration={**CONCENTRATION, "merger": 0.0})
