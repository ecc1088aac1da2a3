"""What is said of an image, as plain values: fields of JSON, captions, classes, columns of a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ALL = ("all",)
"""Wants every field."""
TEXTS = {"txt": "caption", "cls": "class"}
"""Sidecars of plain text, and columns of that name -> the field that they are."""
_INT64 = 2**63


def flattened(fields: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """Those fields that are wanted: numbers, booleans and text as they are, what is nested as JSON text; what is
    missing, and bytes, are left out. `txt` is called `caption`, `cls` is called `class`."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        name = TEXTS.get(name, name)
        if (tuple(wanted) == ALL or name in wanted) and (plain := _plain(value)) is not None:
            found[_clean(name)] = plain
    return found


def read_sidecars(sidecars: Iterable[tuple[str, bytes]], wanted: Sequence[str]) -> dict[str, Any]:
    """The wanted fields of what lies beside an image: (suffix, bytes) of `json`, `txt` and `cls` files.

    A file without sense says nothing; the image beside it is none the worse. A caption or class of JSON stays.
    """
    fields: dict[str, Any] = {}
    for suffix, raw in sidecars:
        if suffix == "json":
            fields = {**fields, **_json(raw)}
        else:
            fields.setdefault(TEXTS[suffix], raw.decode("utf-8", "backslashreplace").strip())
    return flattened(fields, wanted)


def wants(suffix: str, wanted: Sequence[str]) -> bool:
    """Whether a sidecar may say what is wanted."""
    return bool(wanted) and (suffix == "json" or tuple(wanted) == ALL or TEXTS[suffix] in wanted)


def _json(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {"json": value}


def _plain(value: Any) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, bytes | bytearray):
        return None
    if isinstance(value, Mapping | list | tuple):
        return _clean(json.dumps(value, default=str, ensure_ascii=False))
    return str(value)


def _clean(text: str) -> str:
    # JSON may spell halves of characters, which no table can hold.
    return text.encode("utf-8", "backslashreplace").decode()
