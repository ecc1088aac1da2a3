"""Which column is what: guesses in words, flags that win, and messages for names that do not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from sciencessl.data_prep.catalogue import Catalogue
from sciencessl.data_prep.columns import choose_columns
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec, TransferTask

Make = Callable[..., DomainSpec]


def catalogue(**columns: list[Any]) -> Catalogue:
    return Catalogue(pa.table(columns), "cat.csv", None, "")


def test_usual_names_are_guessed_and_said(make_spec: Make) -> None:
    table = catalogue(objid=["1"], File=["a.jpg"], label=["x"], source_tile=["t"], split=["train"])
    found = choose_columns(table, make_spec(), PrepareSettings())
    assert (found.id, found.file, found.classes, found.group, found.split) == (
        "objid", "File", ("label",), "source_tile", "split"
    )
    assert found.guessed == (
        "catalogue: cat.csv", "id from column 'objid'", "file from column 'File'", "class from column 'label'",
        "group from column 'source_tile'", "split from column 'split'",
    )


def test_flags_win_and_are_not_called_guesses(make_spec: Make) -> None:
    table = catalogue(objid=["1"], name=["n"], file=["a.jpg"], kind=["x"], site=["s"], fold=["test"])
    settings = PrepareSettings(id="name", label=("kind",), group="site", split="fold", catalogue="cat.csv")
    found = choose_columns(table, make_spec(), settings)
    assert (found.id, found.classes, found.group, found.split) == ("name", ("kind",), "site", "fold")
    assert found.guessed == ("file from column 'file'",)


def test_domain_group_and_task_columns_come_first(make_spec: Make) -> None:
    spec = make_spec(group="donor", tasks=(TransferTask("t", "grade"),))
    found = choose_columns(catalogue(file=["a"], donor=["d"], patient=["p"], grade=["g"]), spec, PrepareSettings())
    assert found.group == "donor"
    assert found.classes == ("grade",)


def test_split_column_with_other_values_is_not_guessed(make_spec: Make) -> None:
    assert choose_columns(catalogue(file=["a"], split=["north"]), make_spec(), PrepareSettings()).split == ""


def test_drawn_splits_and_missing_groups_are_said(make_spec: Make) -> None:
    said = choose_columns(catalogue(file=["a"]), make_spec(), PrepareSettings(test_fraction=0.3)).guessed
    assert "id from file names" in said
    assert "group: none, each file its own" in said
    assert "split drawn by group: 0.3 test, 0 val" in said


@pytest.mark.parametrize(("settings", "message"), [
    (PrepareSettings(label=("clas",)), r"--label clas: no such column in catalogue cat\.csv\. Did you mean 'class'\?"),
    (PrepareSettings(group="patient"), r"--group patient: no such column.*Columns: file, class"),
    (PrepareSettings(id="objid"), "--id objid"),
    (PrepareSettings(file="path"), "--file path"),
    (PrepareSettings(split="fold"), "--split fold"),
])
def test_unknown_columns(make_spec: Make, settings: PrepareSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_columns(catalogue(file=["a"], **{"class": ["x"]}), make_spec(), settings)


def test_no_file_and_no_identifier(make_spec: Make) -> None:
    with pytest.raises(DataError, match="no column of files or identifiers among: mag, z"):
        choose_columns(catalogue(mag=[1.0], z=[0.1]), make_spec(), PrepareSettings())
