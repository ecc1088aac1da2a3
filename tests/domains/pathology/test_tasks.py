"""Few-label tasks of the pathology domain."""

from __future__ import annotations

from sciencessl.domains.pathology import SPEC
from sciencessl.domains.pathology.tasks import TISSUE
from sciencessl.evaluate.subsets import parse_budget


def test_tasks_stand_in_the_spec_and_describe_themselves() -> None:
    assert SPEC.tasks == (TISSUE,)
    columns = {column.name: column.role for column in SPEC.columns}
    for task in SPEC.tasks:
        assert columns[task.column] == "label"
        assert task.description
        assert [str(parse_budget(budget)) for budget in task.budgets][-1] == "all"


def test_patients_are_drawn_and_resampled() -> None:
    assert TISSUE.unit == "group"
    assert TISSUE.classes == {}
