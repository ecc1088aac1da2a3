"""The one exception by which readers say that a file, or an image in it, cannot be stored."""

from __future__ import annotations


class Refused(Exception):
    """One file cannot be stored: `reason` to count by, `detail` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return Refused, (self.reason, self.detail)
