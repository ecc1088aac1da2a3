"""Budgets read and write themselves; subsets nest, pair, and depend on nothing but digest, task and seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.subsets import Budget, draw_subsets, label_digest, parse_budget


def pool(sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return labels, np.array([f"object-{i}" for i in range(len(labels))])


def draw(labels, units, *texts, seed=0, digest="d", task="t", how="stratified"):
    budgets = [parse_budget(text) for text in texts]
    drawn = draw_subsets(labels, units, budgets, seed, digest, task, how)
    return [drawn[budget] for budget in budgets]


@pytest.mark.parametrize(
    ("text", "budget", "spelled"),
    [
        ("20/class", Budget("per_class", 20), "20/class"),
        (" 20 per class ", Budget("per_class", 20), "20/class"),
        ("250", Budget("total", 250), "250"),
        ("250 in all", Budget("total", 250), "250"),
        ("250 labels", Budget("total", 250), "250"),
        ("1%", Budget("percent", 1), "1%"),
        ("0.1 %", Budget("percent", 0.1), "0.1%"),
        ("50 patients", Budget("units", 50, "patients"), "50 patients"),
        ("12 source tiles", Budget("units", 12, "source tiles"), "12 source tiles"),
        ("1000000", Budget("total", 1_000_000), "1000000"),
        ("All", Budget("all"), "all"),
    ],
)
def test_budget_reads_and_writes(text: str, budget: Budget, spelled: str) -> None:
    assert parse_budget(text) == budget
    assert str(budget) == spelled
    assert parse_budget(spelled) == budget


WRONG = ["", "many", "0", "0/class", "101%", "-5", "20 class", "2.5/class", "20/patient", "0%"]


@pytest.mark.parametrize("text", WRONG)
def test_budget_refuses_and_lists_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match="50 patients"):
        parse_budget(text)


def test_per_class_counts_are_equal_and_capped_with_a_note() -> None:
    labels, ids = pool((100, 40, 7))
    five, ten = draw(labels, ids, "5/class", "10/class")
    assert np.bincount(labels[five.index]).tolist() == [5, 5, 5]
    assert five.note == ""
    assert np.bincount(labels[ten.index]).tolist() == [10, 10, 7]
    assert "class id 2 has only 7" in ten.note
    assert ten.n_units == 27
    assert (np.diff(ten.index) > 0).all()


def test_total_follows_class_frequencies_by_the_divisor_rule_after_a_floor_of_two() -> None:
    sizes = (700, 250, 45, 5)
    labels, ids = pool(sizes)
    budgets = [4, 8, 9, 20, 100, 101, 250, 999]
    for budget, subset in zip(budgets, draw(labels, ids, *map(str, budgets)), strict=True):
        seats = [1] * 4 if budget < 8 else [2] * 4
        while sum(seats) < budget:
            quotient = [n / (2 * s + 1) if s < n else 0 for n, s in zip(sizes, seats, strict=True)]
            seats[int(np.argmax(quotient))] += 1
        assert np.abs(np.bincount(labels[subset.index], minlength=4) - seats).max() <= 1
        assert len(subset.index) == budget
    assert np.bincount(labels[draw(labels, ids, "100")[0].index]).tolist() == [69, 25, 4, 2]


def test_percent_is_of_the_labels() -> None:
    labels, ids = pool((300, 150))
    one, small = draw(labels, ids, "10%", "0.5%")
    assert len(one.index) == 45
    assert len(small.index) == 2


def test_all_takes_everything_and_more_than_everything_says_so() -> None:
    labels, ids = pool((30, 20))
    everything, more, units = draw(labels, ids, "all", "51", "60 objects")
    assert everything.index.tolist() == more.index.tolist() == units.index.tolist() == list(range(50))
    assert everything.note == ""
    assert "only 50 labels" in more.note
    assert "only 50 objects" in units.note


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    budgets=st.lists(st.integers(5, 120), min_size=2, max_size=5, unique=True),
    unit_size=st.integers(1, 4),
    kind=st.sampled_from(["{}", "{}/class", "{} patients", "{}%"]),
    how=st.sampled_from(["stratified", "random"]),
)
def test_smaller_budgets_nest_in_larger_ones(sizes, seed, budgets, unit_size, kind, how) -> None:
    if kind == "{}/class":
        how = "stratified"
    if kind == "{}%":
        budgets = [budget for budget in budgets if budget <= 100]
    labels, _ = pool(tuple(sizes))
    labels = np.random.default_rng(seed).permutation(labels)
    units = np.arange(len(labels)) // unit_size
    drawn: list[set[int]] = []
    for budget in sorted(budgets):
        try:
            drawn.append(set(draw(labels, units, kind.format(budget), seed=seed, how=how)[0].index.tolist()))
        except ConfigError:
            assert not drawn, "a class that a smaller budget held cannot be missing from a larger one"
    assert all(small <= large for small, large in pairwise(drawn))


def test_budget_kinds_share_priorities() -> None:
    labels, ids = pool((200, 100))
    few, many = draw(labels, ids, "10/class", "150")
    assert set(few.index) <= set(many.index)
    equal, total = draw(*pool((60, 60)), "10/class", "20")
    assert equal.index.tolist() == total.index.tolist()


def test_rows_may_come_in_any_order() -> None:
    labels, ids = pool((90, 50, 20))
    shuffled = np.random.default_rng(3).permutation(len(labels))
    for how, texts in (("stratified", ("7/class", "31", "20%", "40 objects")), ("random", ("31", "20%"))):
        straight = draw(labels, ids, *texts, how=how)
        mixed = draw(labels[shuffled], ids[shuffled], *texts, how=how)
        for one, two in zip(straight, mixed, strict=True):
            assert set(ids[one.index]) == set(ids[shuffled][two.index])


def test_seed_digest_and_task_each_change_the_draw_and_nothing_else_does() -> None:
    labels, ids = pool((500, 500))
    base = draw(labels, ids, "50")[0].index.tolist()
    assert draw(labels, ids, "50")[0].index.tolist() == base
    for change in ({"seed": 1}, {"digest": "e"}, {"task": "u"}):
        assert draw(labels, ids, "50", **change)[0].index.tolist() != base


def test_every_object_is_drawn_equally_often() -> None:
    labels, ids = pool((40, 40))
    times = np.zeros(80)
    for seed in range(600):
        times[draw(labels, ids, "10/class", seed=seed)[0].index] += 1
    # Binomial(600, 1/4): standard deviation 10.6; chi-square of 80 such counts, less two constraints.
    assert abs(times - 150).max() < 5 * 10.6
    assert 45 < ((times - 150) ** 2 / 112.5).sum() < 125


def test_whole_units_are_drawn_and_the_overshoot_is_told() -> None:
    labels = np.repeat([0, 0, 0, 0, 1, 1, 1, 1], 10)
    units = np.repeat([f"patient-{i}" for i in range(8)], 10)
    per_class, total, patients = draw(labels, units, "15/class", "35", "4 patients")
    assert np.bincount(labels[per_class.index]).tolist() == [20, 20]
    assert per_class.note == "whole units drawn: 40 labels of 4 units"
    assert len(total.index) == 40
    assert patients.n_units == 4
    for subset in (per_class, total, patients):
        assert all((units == unit).sum() == 10 for unit in np.unique(units[subset.index]))
        assert len(subset.index) % 10 == 0


def test_a_unit_of_several_classes_stands_for_its_rarest() -> None:
    units = np.repeat(np.arange(30), 4)
    labels = np.zeros(120, dtype=int)
    labels[[0, 40, 80]] = 1
    for seed in range(20):
        (subset,) = draw(labels, units, "4 tiles", seed=seed)
        assert np.bincount(labels[subset.index])[1] == 2


def test_a_stratified_budget_that_lacks_a_class_is_refused_and_random_notes_it() -> None:
    labels, ids = pool((100, 100, 2))
    with pytest.raises(ConfigError, match=r"'2' leaves class ids \[[012]\] of 3 classes"):
        draw(labels, ids, "2")
    (subset,) = draw(labels, ids, "3", how="random")
    assert "no label of class ids" in subset.note
    with pytest.raises(ConfigError, match="cannot be drawn at random"):
        draw(labels, ids, "3/class", how="random")


def test_random_draws_follow_chance_and_not_the_floor() -> None:
    labels, ids = pool((990, 10))
    rare = [np.bincount(labels[draw(labels, ids, "100", seed=s, how="random")[0].index], minlength=2)[1] for s in
            range(200)]
    assert abs(np.mean(rare) - 1.0) < 0.25
    assert min(rare) == 0


@pytest.mark.parametrize(
    ("labels", "units"),
    [([0, 1], ["a"]), ([], []), ([0, -1], ["a", "b"]), ([0.0, 1.0], ["a", "b"])],
)
def test_bad_labels_are_refused(labels, units) -> None:
    with pytest.raises(DataError, match="label subsets"):
        draw(np.array(labels), np.array(units), "all")


def test_label_digest_ignores_order_and_sees_every_change() -> None:
    ids, labels = ["a", "b", "c"], [0, 1, 2]
    base = label_digest(ids, labels)
    assert label_digest(["c", "a", "b"], np.array([2, 0, 1])) == base
    assert len(base) == 32
    others = [label_digest(["a", "b", "d"], labels), label_digest(ids, [0, 2, 1]), label_digest(ids[:2], labels[:2])]
    assert len({base, *others}) == 4
    # Id and label cannot run into each other.
    assert label_digest(["a1"], ["2"]) != label_digest(["a"], ["12"])
    with pytest.raises(DataError, match="twice"):
        label_digest(["a", "a"], [0, 1])
    with pytest.raises(DataError, match="2 ids and 1 labels"):
        label_digest(["a", "b"], [0])
