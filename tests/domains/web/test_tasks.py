"""Few-label tasks of the web domain."""

from __future__ import annotations

from sciencessl.domains.web import SPEC
from sciencessl.domains.web.tasks import CLASSES
from sciencessl.evaluate.subsets import parse_budget


def test_tasks_stand_in_the_spec_and_describe_themselves() -> None:
    assert SPEC.tasks == (CLASSES,)
    columns = {column.name: column.role for column in SPEC.columns}
    for task in SPEC.tasks:
        assert columns[task.column] == "label"
        assert task.description
        assert [str(parse_budget(budget)) for budget in task.budgets][-1] == "all"


def test_every_class_folder_is_a_class() -> None:
    assert (CLASSES.column, CLASSES.unit, CLASSES.classes) == ("class", "object", {})
