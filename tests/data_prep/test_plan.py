"""The plan: rows by the rule, inputs by key, digests that see what matters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sciencessl.data_prep.plan import inputs_digest, make_plan, row_count
from sciencessl.data_prep.source import Input, Source
from sciencessl.errors import DataError
from sciencessl.spec import FieldSpec
from sciencessl.store.format import sample_key

FIELDS = {"image": FieldSpec("bytes", ("r", "g", "b"))}


def entry(i: int) -> Input:
    return Input(f"id{i}", f"{i}.jpg", 100 + i, 7, "train", {"group": f"g{i}"}, None, expected_bytes=1000)


def source(inputs: list[Input], **settings: object) -> Source:
    return Source("images", FIELDS, inputs, settings, read=lambda task: iter(()), fingerprint=lambda entry: "")


@pytest.mark.parametrize(("inputs", "samples", "expected_bytes", "rows"), [
    (5, 5, 100, 5),
    (1000, 1000, 10**6, 16),
    (10**6, 10**6, 10**6, 123),          # 8192 samples a row
    (10**5, 10**5, 100 * 2**30, 800),    # 128 MiB a row
    (4, 4, 100 * 2**30, 4),
])
def test_row_count(inputs: int, samples: int, expected_bytes: int, rows: int) -> None:
    assert row_count(inputs, samples, expected_bytes) == rows


def test_inputs_are_dealt_once_in_key_order() -> None:
    plan = make_plan("toy", source([entry(i) for i in range(50)]))
    dealt = [e.id for task in plan.tasks for e in task.inputs]
    assert dealt == sorted(dealt, key=lambda identifier: sample_key("images", identifier))
    assert len(set(dealt)) == 50
    assert [task.row for task in plan.tasks] == list(range(16))
    assert {len(task.inputs) for task in plan.tasks} == {3, 4}
    assert plan.header.places == 4
    assert plan.row_bytes == 3125
    assert plan.samples == 50


def test_plan_is_the_same_in_any_order_of_inputs() -> None:
    inputs = [entry(i) for i in range(50)]
    assert make_plan("toy", source(inputs)) .header == make_plan("toy", source(inputs[::-1])).header


def test_digests_see_ids_splits_columns_and_settings() -> None:
    inputs = [entry(i) for i in range(20)]
    digests = {make_plan("toy", source(inputs, a=1)).header.plan_digest}
    for change in ({"id": "new"}, {"split": "test"}, {"columns": {"group": "other"}}, {"file": "moved.jpg"}):
        digests.add(make_plan("toy", source([replace(inputs[0], **change), *inputs[1:]], a=1)).header.plan_digest)
    digests.add(make_plan("toy", source(inputs, a=2)).header.plan_digest)
    assert len(digests) == 6
    touched = make_plan("toy", source([replace(inputs[0], stamp=8), *inputs[1:]], a=1)).header
    assert touched.plan_digest in digests


def test_inputs_digest_sees_path_size_and_stamp() -> None:
    one = entry(1)
    changed = [replace(one, **change) for change in ({"size": 1}, {"stamp": 1}, {"file": "x"})]
    assert len({inputs_digest([e]) for e in [one, *changed]}) == 4
    assert inputs_digest([one]) == inputs_digest([replace(one, split="test")])


def test_no_inputs() -> None:
    with pytest.raises(DataError, match="nothing to prepare"):
        make_plan("toy", source([]))
