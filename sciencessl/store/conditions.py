"""Conditions on the columns of a store, such as `pen>0.1`: compared, never evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sciencessl.errors import ConfigError
from sciencessl.store.reader import Store

Bool = npt.NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<=": np.less_equal, ">=": np.greater_equal, "!=": np.not_equal, "=": np.equal, "<": np.less, ">": np.greater,
}
FORM = "COLUMN then one of < <= > >= = != then a value, in quotes for the shell: 'pen>0.1', 'site=B2'"
_FORM = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|==|=|<|>)(.*)", re.DOTALL)
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Condition:
    """A column compared with a value.

    Attributes:
        text: As it was given.
        column: Name of the column.
        operator: `<`, `<=`, `>`, `>=`, `=` or `!=`.
        value: As text: what it is depends on the column.
        flag: What gave it.
    """

    text: str
    column: str
    operator: str
    value: str
    flag: str = "--where"


def parse_condition(text: str, flag: str = "--where") -> Condition:
    """A condition from its text, which a flag gave; `==` is `=`, and spaces around the parts do not count.

    Raises:
        ConfigError: For text without a column, an operator or a value.
    """
    found = _FORM.fullmatch(text)
    if found is None or not found[3].strip():
        raise ConfigError(f"{flag} {text!r} is no condition; expected {FORM}.")
    return Condition(text.strip(), found[1], "=" if found[2] == "==" else found[2], found[3].strip(), flag)


def meets(store: Store, condition: Condition) -> Bool:
    """Which of a store's samples meet a condition, withdrawn ones among them.

    Numbers are compared with any operator, text and true/false with `=` and `!=`. A sample without a value (missing,
    or NaN) meets no condition, not even `!=`.

    Returns:
        (N,) bool, in store order.

    Raises:
        StoreError: When no row column and no table has the column.
        ConfigError: When the column does not hold what could be compared so.
    """
    values = store.column(condition.column)
    given = np.array([value is not None and value == value for value in values]) if values.dtype == object \
        else ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
    found = np.zeros(len(values), bool)
    known = values[given]
    if len(known):
        found[given] = _COMPARE[condition.operator](known, _comparable(condition, known))
    return found


def value_meets(value: Any, condition: Condition) -> bool:
    """Whether one value meets a condition, by the rules of `meets`; nothing does that is missing.

    Raises:
        ConfigError: When it cannot be compared so.
    """
    if value is None or value != value:
        return False
    return bool(_COMPARE[condition.operator](value, _comparable(condition, [value])))


def _comparable(condition: Condition, known: Sequence[Any] | np.ndarray) -> Any:
    """The condition's value as what the column holds."""
    first = known[0]
    if isinstance(first, bool | np.bool_):
        truth = _TRUTH.get(condition.value.lower())
        if truth is None or condition.operator not in ("=", "!="):
            raise _mismatch(condition, "true and false", "= or != and true or false")
        return truth
    if isinstance(first, int | float | np.integer | np.floating):
        return _number(condition, isinstance(first, int | np.integer))
    if isinstance(first, str):
        if condition.operator not in ("=", "!="):
            raise _mismatch(condition, f"text, such as {first!r}", "= or !=, since text has no order")
        return condition.value
    raise _mismatch(condition, f"what cannot be compared ({type(first).__name__})", "another column")


def _number(condition: Condition, whole: bool) -> int | float:
    try:
        # A float would round identifiers of more than 15 digits.
        return int(condition.value) if whole and re.fullmatch(r"[+-]?\d+", condition.value) else _real(condition.value)
    except ValueError:
        raise _mismatch(condition, "numbers", f"a number in place of {condition.value!r}") from None


def _real(text: str) -> float:
    number = float(text)
    if np.isnan(number):
        raise ValueError(text)
    return number


def _mismatch(condition: Condition, holds: str, expected: str) -> ConfigError:
    return ConfigError(f"{condition.flag} {condition.text!r}: column {condition.column!r} holds {holds}; expected "
                       f"{expected}.")
