"""Transfer tasks from YAML files, under the same rules as those of a domain.

    name: bars                  # the file's name where it is left out
    column: bar-class           # or `columns: [a, b]` for kinds multilabel and counts
    classes: {strong: barred, weak: barred, none: unbarred, unsure: null}    # null drops the value
    where: {survey: [sdss]}
    unit: group
    budgets: [20/class, 50, all]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.evaluate.subsets import parse_budget
from sciencessl.layers import read_yaml
from sciencessl.spec import TransferTask
from sciencessl.store.sides import value_text

SUFFIXES = (".yaml", ".yml")
"""How the name of a task file ends."""


def read_task(path: str | Path) -> TransferTask:
    """The task that a YAML file describes: its keys are the attributes of `TransferTask`.

    Values of columns may be text or numbers and are compared as `value_text`. A value of `classes` that is mapped to
    null is dropped, as is one that is not listed. In `where` a single value may stand for a list of one.

    Args:
        path: A file that ends in .yaml or .yml.

    Raises:
        ConfigError: For a missing or unreadable file, an unknown key (with the closest known one), a value of the wrong
            type, a budget of no known form, or a broken rule of `TransferTask`; names file and key.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--task {path}: there is no such file.")
    known = [entry.name for entry in dataclasses.fields(TransferTask)]
    values: dict[str, Any] = {"name": path.stem}
    for key, value in read_yaml(path).items():
        if key not in known:
            raise ConfigError(f"{path}: no key {key!r}.{did_you_mean(str(key), known)} Keys: {', '.join(known)}.")
        read: Callable[[Any], Any] = _READ.get(key, _word)
        try:
            values[key] = read(value)
        except ConfigError as error:
            raise ConfigError(f"{path}, key {key!r}: {error}") from None
    try:
        return TransferTask(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        raise ConfigError(
            f"YAML reads yes, no, on, off, true and false without quotes as {value}; write the value in quotes, "
            "as the column spells it ('True' in a column of booleans)."
        )
    text = "" if isinstance(value, Mapping | list) else value_text(value)
    if not text:
        raise ConfigError(f"got {value!r} where one text or number is expected.")
    return text


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"got {value!r} where text is expected.")
    return value


def _list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"got {value!r} where a list such as [a, b] is expected.")
    return tuple(_scalar(item) for item in value)


def _budgets(value: Any) -> tuple[str, ...]:
    return tuple(str(parse_budget(text)) for text in _list(value))


def _classes(value: Any) -> dict[str, str]:
    kept = {_scalar(label): _scalar(name) for label, name in _mapping(value).items() if name is not None}
    if not kept:
        raise ConfigError("every value is dropped; map two or more to classes.")
    return kept


def _where(value: Any) -> dict[str, tuple[str, ...]]:
    return {
        _scalar(column): _list(kept if isinstance(kept, list) else [kept]) for column, kept in _mapping(value).items()
    }


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"got {value!r} where a mapping such as {{a: b}} is expected.")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"got {value!r} where a number is expected.")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"got {value!r} where true or false is expected.")
    return value


_READ: Mapping[str, Callable[[Any], Any]] = {
    "classes": _classes, "where": _where, "budgets": _budgets, "columns": _list, "above": _number,
    "least_votes": _number, "ordered": _truth,
}
"""Key -> reader of its value, where it is not a word."""
