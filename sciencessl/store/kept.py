"""What was read last, kept up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What knows how many bytes it takes, as arrays do."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


Value = TypeVar("Value", bound=Sized)


class Kept(Generic[Value]):
    """The values used last, `limit` bytes of them and at least one. Threads may share it; processes must not."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> Value | None:
        """The value of that key, or None where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: Hashable, value: Value) -> None:
        """Keep a value, and let go of those used longest ago."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value
                self.nbytes += value.nbytes
            while len(self._kept) > 1 and self.nbytes > self.limit:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes

    def get(self, key: Hashable, read: Callable[[], Value]) -> Value:
        """The value of that key; `read` is called outside the lock, where it is not kept."""
        found = self.find(key)
        if found is None:
            found = read()
            self.keep(key, found)
        return found
