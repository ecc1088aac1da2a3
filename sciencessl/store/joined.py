"""Several stores read as one: what a loader needs to take its batches from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np

from sciencessl.errors import StoreError
from sciencessl.grouping import places_of
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.split import SplitIndex


class JoinedStores:
    """Sealed stores of one domain and equal fields; samples count through them one after the other.

    Args:
        stores: One or more, in the order that counts.

    Raises:
        StoreError: When there is none, or domains or fields differ.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        if not stores:
            raise StoreError("no stores to join; give one or more.")
        self.stores = tuple(stores)
        for store in stores[1:]:
            unlike = list(_differences(stores[0], store))
            if unlike:
                raise StoreError(
                    f"{store.path} does not go with {stores[0].path}: {'; '.join(unlike)}. Stores of one run agree in "
                    "domain and fields. Prepare them with the same domain and options, or all files in one call."
                )

    @property
    def header(self) -> StoreHeader:
        """Of the first store: domain and fields are those of all."""
        return self.stores[0].header

    @property
    def name(self) -> str:
        """The folders of all stores, as messages name them."""
        return ", ".join(str(store.path) for store in self.stores)

    @property
    def primary(self) -> str:
        """Name of the field the encoder sees."""
        return self.stores[0].primary

    @property
    def digests(self) -> tuple[str, ...]:
        """Manifest digest of each store: what runs record."""
        return tuple(store.digest for store in self.stores)

    @cached_property
    def starts(self) -> np.ndarray:
        """(K + 1,) int64 index of the first sample of each store, and how many samples there are."""
        return np.cumsum([0, *(len(store) for store in self.stores)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def split(self, name: str) -> SplitIndex:
        """The samples of one split of all stores, in the order of the stores.

        Raises:
            StoreError: As `Store.split`.
        """
        parts = [store.split(name).ranges for store in self.stores]
        first, stop = (
            np.concatenate([part[side] + start for part, start in zip(parts, self.starts[:-1], strict=True)])
            for side in (0, 1)
        )
        return SplitIndex(first, stop)

    def sizes(self, name: str) -> list[int]:
        """Samples of one split in each store.

        Raises:
            StoreError: As `Store.split`.
        """
        return [len(store.split(name)) for store in self.stores]

    def column(self, name: str) -> np.ndarray:
        """One column for all samples; None (objects) or NaN (numbers) also where a store lacks it.

        Raises:
            StoreError: When no store has it; as `Store.column`.
        """
        having = [k for k, store in enumerate(self.stores) if name in store.columns()] or [0]
        # Joined first: whole numbers of one store and those of another with gaps, which are floats, get one type.
        known = np.concatenate([self.stores[k].column(name) for k in having])
        if len(having) == len(self.stores):
            return known
        numbers = known.dtype.kind == "f"
        values = np.full(len(self), np.nan if numbers else None, known.dtype if numbers else object)
        where = np.concatenate([np.arange(self.starts[k], self.starts[k + 1]) for k in having])
        values[where] = known
        return values

    def keys(self, index: np.ndarray) -> np.ndarray:
        """(B, 16) uint8 keys of samples.

        Raises:
            StoreError: For an index that no store has.
        """
        keys = np.empty((len(index), 16), np.uint8)
        for store, where, local in self._dealt(index):
            keys[where] = store.keys(local)
        return keys

    def payloads(self, name: str, index: np.ndarray | Sequence[int]) -> list[bytes | np.ndarray]:
        """Stored bytes or arrays of samples, in the order asked for.

        Raises:
            StoreError: For an index that no store has, and as `Store.payloads`.
        """
        found: dict[int, bytes | np.ndarray] = {}
        for store, where, local in self._dealt(np.asarray(index)):
            found.update(zip(where.tolist(), store.payloads(name, local), strict=True))
        return [found[place] for place in range(len(index))]

    def consecutive(self, name: str, first: int, stop: int) -> list[bytes | np.ndarray]:
        """Payloads of samples `first` up to `stop`; no window is kept.

        Raises:
            StoreError: For samples that no store has, and as `Store.consecutive`.
        """
        if not 0 <= first <= stop <= len(self):
            raise StoreError(f"samples {first} to {stop} of {len(self.stores)} joined stores, expected a range within "
                             f"0 to {len(self)}.")
        found: list[bytes | np.ndarray] = []
        for store, start in zip(self.stores, self.starts.tolist(), strict=False):
            here = max(first - start, 0), min(stop - start, len(store))
            if here[0] < here[1]:
                found += store.consecutive(name, *here)
        return found

    def _dealt(self, index: np.ndarray) -> list[tuple[Store, np.ndarray, np.ndarray]]:
        """For each store that is asked: the store, places in `index`, and indices in the store."""
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise StoreError(f"sample index outside 0 to {len(self) - 1} of {len(self.stores)} joined stores.")
        owner = np.searchsorted(self.starts, index, side="right") - 1
        return [(self.stores[k], where, index[where] - self.starts[k]) for k, where in places_of(owner)]


def _differences(first: Store, second: Store) -> Iterator[str]:
    """What the second of two stores has otherwise, in words."""
    if first.header.domain != second.header.domain:
        yield f"its domain is {second.header.domain}, not {first.header.domain}"
    mine, other = first.header.fields, second.header.fields
    for name in (*mine, *(name for name in other if name not in mine)):
        if name not in other:
            yield f"it has no field {name}"
        elif name not in mine:
            yield f"it has a field {name} besides"
        elif mine[name] != other[name]:
            was, has = asdict(mine[name]), asdict(other[name])
            unlike = [f"{key} {has[key]}, not {was[key]}" for key in has if has[key] != was[key]]
            yield f"its field {name} has {' and '.join(unlike)}"
