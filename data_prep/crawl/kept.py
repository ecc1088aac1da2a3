"""What comes with the images of a crawl: which of it stays, as a column of one type each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sciencessl.data_prep.decode import DESCRIPTION
from sciencessl.data_prep.manifest import ROW_COLUMNS

OWN = frozenset({"shard", "blurred", *ROW_COLUMNS, *DESCRIPTION})
"""Columns that are made when images are read: nothing else is stored under their names."""
TYPES = ("bool", "int", "float", "text")
"""From the narrowest to the one that holds all."""
INT_LIMIT = 2**63


def column_types(seen: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> dict[str, str]:
    """The type of each wanted column: the narrowest that holds its values in some records.

    Later values that do not fit are missing. Without such a rule the first crooked number among a million would make
    two rows disagree, or stop the run.

    Args:
        seen: What comes with some records.
        wanted: Names; `all` stands for every one that is seen.

    Returns:
        Name -> one of `TYPES`; `text` for what no record has.
    """
    names = dict.fromkeys(name for name in wanted if name != "all")
    found: dict[str, str] = {}
    records = list(seen)
    if "all" in wanted:
        names |= dict.fromkeys(sorted({name for record in records for name in record}))
    for name in names:
        kinds = [_type(record[name]) for record in records if record.get(name) is not None]
        found[name] = max(kinds, key=TYPES.index) if kinds else "text"
        if len({*kinds}) > 1 and "bool" in kinds:
            found[name] = "text"
    return found


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) < INT_LIMIT else "text"
    return "float" if isinstance(value, float) else "text"


def fit(value: Any, kind: str) -> Any:
    """A value as one of `TYPES`; None for what is missing or does not fit."""
    if value is None:
        return None
    if kind == "text":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return text.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bool):
        return value if kind == "bool" else None
    if kind == "int":
        return value if isinstance(value, int) and abs(value) < INT_LIMIT else None
    if kind == "float" and isinstance(value, int | float):
        number = float(value) if abs(value) < 2.0**1000 else math.nan
        return None if math.isnan(number) else number
    return None
