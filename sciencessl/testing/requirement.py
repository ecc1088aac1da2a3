"""How a kit says that something does not hold."""

from __future__ import annotations

import dataclasses

from sciencessl.errors import SciencesslError


class ConformanceError(SciencesslError, AssertionError):
    """A domain or method breaks the contract; the message says which part, and how it was seen."""


def require(holds: bool, sentence: str) -> None:
    """Raise `ConformanceError` with the sentence unless it holds."""
    if not holds:
        raise ConformanceError(sentence)


def is_frozen_dataclass(kind: object) -> bool:
    """Whether a class is a dataclass whose instances cannot change."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and bool(vars(kind)["__dataclass_params__"].frozen)
