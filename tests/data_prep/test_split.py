"""Splits: a pure function of the group, with the shares asked for, and given splits checked for leaks."""

from __future__ import annotations

import math

import pytest

from sciencessl.data_prep.split import assign_split, check_groups, given_splits, stratified_splits
from sciencessl.errors import DataError

GROUPS = [f"patient-{i}" for i in range(20_000)]


def test_shares_are_those_asked_for() -> None:
    splits = [assign_split(group, 0, 0.2, 0.1) for group in GROUPS]
    for name, share in (("test", 0.2), ("val", 0.1), ("train", 0.7)):
        deviation = math.sqrt(share * (1 - share) / len(GROUPS))
        assert abs(splits.count(name) / len(GROUPS) - share) < 4 * deviation


def test_seed_keys_the_draw_and_nothing_else_does() -> None:
    first = [assign_split(group, 0, 0.5, 0.0) for group in GROUPS[:2000]]
    assert first == [assign_split(group, 0, 0.5, 0.0) for group in GROUPS[:2000]]
    other = [assign_split(group, 1, 0.5, 0.0) for group in GROUPS[:2000]]
    # Independent fair draws agree half of the time; 4 standard deviations are 4.5 %.
    assert abs(sum(a == b for a, b in zip(first, other, strict=True)) / 2000 - 0.5) < 0.045


def test_larger_fractions_only_add_groups() -> None:
    for group in GROUPS[:2000]:
        if assign_split(group, 3, 0.1, 0.1) == "test":
            assert assign_split(group, 3, 0.3, 0.1) == "test"
        if assign_split(group, 3, 0.1, 0.1) == "val":
            assert assign_split(group, 3, 0.3, 0.2) == "val"


def test_zero_fractions_give_only_training() -> None:
    assert {assign_split(group, 0, 0.0, 0.0) for group in GROUPS[:500]} == {"train"}


def test_given_splits_are_translated_and_others_listed() -> None:
    spelled = ["Train", "training", "valid", "validation", "val", "TEST "]
    assert given_splits(spelled, "fold") == ["train", "train", "val", "val", "val", "test"]
    with pytest.raises(DataError, match=r"'fold' holds 2 value\(s\) that name no split: '', 'holdout'"):
        given_splits(["train", "holdout", None], "fold")


def test_group_in_two_splits_is_a_leak() -> None:
    check_groups(["a", "a", "b"], ["train", "train", "test"], "patient")
    with pytest.raises(DataError, match=r"1 group\(s\) of column 'patient'.*'a' in train and test.*leak"):
        check_groups(["a", "b", "a"], ["train", "test", "test"], "patient")


def test_stratified_splits_keep_patients_whole_and_classes_even() -> None:
    # Of 40 patients with 1 to 4 slides, 30 have the common class: 20 % of 60 and of 40 slides.
    groups = [f"p{patient}" for patient in range(40) for _ in range(1 + patient % 4)]
    classes = ["rare" if int(group[1:]) % 4 == 3 else "common" for group in groups]
    splits = stratified_splits(groups, classes, 0, 0.2, 0.1)
    check_groups(groups, splits, "patient")
    found = {(kind, split): sum(pair == (kind, split) for pair in zip(classes, splits, strict=True))
             for kind in ("common", "rare") for split in ("train", "val", "test")}
    assert found == {("common", "train"): 42, ("common", "val"): 6, ("common", "test"): 12,
                     ("rare", "train"): 28, ("rare", "val"): 4, ("rare", "test"): 8}


def test_a_stratified_draw_depends_on_names_and_seed_and_not_on_the_order_of_rows() -> None:
    groups, classes = [f"p{i}" for i in range(30)], [("a", "b", None)[i % 3] for i in range(30)]
    splits = stratified_splits(groups, classes, 0, 0.2, 0.0)
    assert stratified_splits(groups[::-1], classes[::-1], 0, 0.2, 0.0) == splits[::-1]
    assert stratified_splits(groups, classes, 1, 0.2, 0.0) != splits
    assert [sum(s == "test" for s in splits[kind::3]) for kind in range(3)] == [2, 2, 2]
