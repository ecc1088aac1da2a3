"""Tasks from YAML files: equal to those that a domain writes, and each mistake named with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY, TASKS
from sciencessl.errors import ConfigError
from sciencessl.evaluate.task_files import read_task
from sciencessl.evaluate.tasks import find_task
from sciencessl.spec import TransferTask


def written(folder: Path, text: str, name: str = "bars.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_the_task_that_a_domain_would_write(tmp_path: Path) -> None:
    path = written(tmp_path, """
name: morphology
column: class
classes: {elliptical: elliptical, edge-on: edge-on, spiral-clockwise: spiral, spiral-anticlockwise: spiral,
          spiral: spiral, merger: null}
budgets: [50, 250, 750, all]
description: elliptical, spiral or edge-on (Galaxy Zoo 1 classes; merger and dont-know are left out)
""")
    assert read_task(path) == MORPHOLOGY
    assert find_task(TASKS, str(path)) == MORPHOLOGY


def test_all_keys(tmp_path: Path) -> None:
    path = written(tmp_path, """
column: grade
classes: {0: low, 1: low, 2.0: high}
where: {site: [a, b], year: 2016}
kind: retrieval
unit: patient
metric: precision_at_k
budgets: [5/class, 1%, 50 patients]
""", "grades.yml")
    assert read_task(path) == TransferTask(
        name="grades", column="grade", classes={"0": "low", "1": "low", "2": "high"},
        where={"site": ("a", "b"), "year": ("2016",)}, kind="retrieval", unit="patient", metric="precision_at_k",
        budgets=("5/class", "1%", "50 patients"),
    )


def test_votes_and_labels_have_several_columns(tmp_path: Path) -> None:
    task = read_task(written(tmp_path, "kind: counts\ncolumns: [bar_yes, bar_no]\nbudgets: [50]\n"))
    assert (task.name, task.columns, task.metric) == ("bars", ("bar_yes", "bar_no"), "nll")
    assert task.label_columns == ("bar_yes", "bar_no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colum: class\n", r"bars.yaml: no key 'colum'. Did you mean 'column'\? Keys: name, column, classes"),
        ("column: [a]\n", r"bars.yaml, key 'column': got \['a'\] where text is expected"),
        ("column: class\nclasses: [a, b]\n", r"key 'classes': got \['a', 'b'\] where a mapping such as {a: b}"),
        ("column: class\nclasses: {yes: bar}\n", r"key 'classes': YAML reads yes, no, .* as True; write the value in"),
        ("column: class\nclasses: {a: [b]}\n", r"key 'classes': got \['b'\] where one text or number is expected"),
        ("column: class\nclasses: {a: null}\n", r"key 'classes': every value is dropped"),
        ("column: class\nwhere: {site: [a, [b]]}\n", r"key 'where': got \['b'\] where one text or number"),
        ("column: class\nwhere: site\n", r"key 'where': got 'site' where a mapping"),
        ("column: class\nbudgets: 50\n", r"key 'budgets': got 50 where a list such as \[a, b\] is expected"),
        ("column: class\nbudgets: [many]\n", r"key 'budgets': label budget 'many' is not understood; write one of"),
        ("column: class\nkind: klass\n", r"bars.yaml: task 'bars': no kind named 'klass'. Did you mean 'class'"),
        ("column: class\nmetric: acuracy\n", r"no primary metric named 'acuracy'. Did you mean 'accuracy'"),
        ("column: class\nbag: ''\n", r"task 'bars': name, bag '' and budgets .* must not be empty"),
        ("column: class\nbudgets: []\n", r"budgets \[\] must not be empty"),
        ("description: nothing\n", r"bars.yaml: task 'bars': kind 'class' reads one 'column', or 'columns' of votes"),
        ("columns: [a, b]\ncolumn: a\n", r"kind 'class' reads one 'column', or 'columns' of votes"),
        ("columns: [a]\n", r"kind 'class' reads 2 or more different 'columns'; got"),
        ("columns: [a, b]\nclasses: {c: ring}\n", r"classes of votes map columns of the task and 'no majority', not"),
        ("columns: [a, b]\nabove: 1\n", r"above = 1 must be from 0 to below 1"),
        ("columns: [a, b]\nleast_votes: many\n", r"key 'least_votes': got 'many' where a number is expected"),
        ("kind: counts\ncolumns: [a]\n", r"kind 'counts' reads 2 or more different 'columns', no 'column'"),
        ("kind: counts\ncolumns: [a, a]\n", r"kind 'counts' reads 2 or more different 'columns'"),
        ("kind: multilabel\ncolumn: a\n", r"kind 'multilabel' reads 1 or more different 'columns'"),
        ("kind: multilabel\ncolumns: [a]\nclasses: {1: b}\n", r"kind 'multilabel' reads 1 or more .* {'1': 'b'}"),
        ("column: a\nmetric: quadratic_kappa\n", r"classes in an order: list them .* set `ordered: true`"),
        ("column: a\nordered: 1\n", r"key 'ordered': got 1 where true or false is expected"),
        ("kind: retrieval\ncolumn: a\nordered: true\n", r"ordered is for kinds class, bag; this one is 'retrieval'"),
        ("- column\n", r"bars.yaml holds a list, expected settings as `name: value`"),
        ("column: {a\n", r"bars.yaml is not valid YAML"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_task(written(tmp_path, text))


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task .*none.yaml: there is no such file"):
        find_task(TASKS, str(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match=r"bytes.yaml is not valid YAML"):
        read_task(tmp_path / "bytes.yaml")
