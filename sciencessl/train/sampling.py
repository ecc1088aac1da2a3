"""How a run draws its samples: the one place where settings become an order, and what the order depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from sciencessl.config import RunConfig
from sciencessl.data.mixture import Mixture, mix_labelled, mix_stores
from sciencessl.data.order import Order, SampleOrder
from sciencessl.data.runs import longest_run
from sciencessl.data.weights import WeightedOrder, Weights, balance, weighted_order
from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.setting_groups import SamplingConfig, require
from sciencessl.spec import UNLABELLED
from sciencessl.store.joined import JoinedStores
from sciencessl.train.labels import LabelSet, in_train, joined_notes, read_classes, tables_of

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DrawColumn:
    """The column that says how often samples come.

    Attributes:
        name: Of the column.
        values: (n,) class numbers or weights of the samples of split=train, by position; -1 for no class.
        classes: Names of the classes; none for weights.
        exponent: Of the balance.
        note: Where the values come from, in words.
        tables: For each store, the tables that hold them; none for a column of the rows.
    """

    name: str
    values: np.ndarray
    classes: tuple[str, ...]
    exponent: float
    note: str
    tables: tuple[tuple[str, ...], ...]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(n,) which samples have a value."""
        return np.asarray(self.values != UNLABELLED if self.classes else np.isfinite(self.values))

    def weights(self, first: int, stop: int) -> Weights | None:
        """Of the samples at positions `first` up to `stop`, balanced among themselves; None where none has a value."""
        if not self.known[first:stop].any():
            return None
        values = self.values[first:stop]
        return balance(values, self.exponent) if self.classes else Weights(values)

    def among(self, chosen: npt.NDArray[np.bool_]) -> Weights:
        """Of the chosen ones of all samples, balanced among themselves; 0 for the others."""
        values = self.values
        if self.classes:
            inside = np.where(chosen, values, UNLABELLED)
            if (inside == UNLABELLED).all():
                return Weights(chosen)
            values = balance(inside, self.exponent)(np.arange(len(inside)))
        return Weights(np.where(chosen, values, 0.0))


@dataclass(frozen=True, eq=False)
class Sampling:
    """How a run draws its samples.

    Attributes:
        order: Of the samples of split=train of all stores.
        column: What says how often they come; None where nothing does.
        labelled: (n,) which samples are labelled, where a share of them is asked for.
        sizes: Samples of split=train of each store.
    """

    order: SampleOrder
    column: DrawColumn | None
    labelled: npt.NDArray[np.bool_] | None
    sizes: tuple[int, ...]

    @property
    def changed(self) -> bool:
        """Whether samples come otherwise than each once an epoch."""
        return not isinstance(self.order, Order)

    @property
    def parts(self) -> tuple[SampleOrder, ...]:
        """The orders that take turns; one where there is no mixture."""
        return self.order.parts if isinstance(self.order, Mixture) else (self.order,)

    def taken(self, step: int) -> tuple[int, ...]:
        """Samples that each part has given before a step."""
        return self.order.taken(step) if isinstance(self.order, Mixture) else (step * self.order.batch,)

    def identity(self) -> str:
        """All that decides the order beside seed, batch and slots, in words that an error can print."""
        rates = self.order.rates if isinstance(self.order, Mixture) else ()
        sums = [part.sums.digest for part in self.parts if isinstance(part, WeightedOrder)]
        dealt = [part.order if isinstance(part, WeightedOrder) else part for part in self.parts]
        units = [f"{part.unit} in {part.slot_count} streams" for part in dealt if isinstance(part, Order)]
        said = [f"{sum(self.sizes)} samples", f"units of {' and '.join(units)}"]
        said += [f"rates {', '.join(map(str, rates))}"] if rates else []
        said += [f"weights {' '.join(sums)}"] if sums else []
        if self.labelled is not None:
            labelled = hashlib.blake2b(np.packbits(self.labelled).tobytes(), digest_size=16).hexdigest()
            said.append(f"{int(self.labelled.sum())} labelled, {labelled}")
        return ", ".join(said)


def make_sampling(store: JoinedStores, labels: Sequence[LabelSet], run: RunConfig) -> Sampling:
    """The order of a run.

    Args:
        store: What is trained on.
        labels: Of the label terms: a sample with a label of any of them is labelled.
        run: Its settings; `slots` may be 0 still.

    Raises:
        ConfigError: For a column that is not there or does not fit, or a setting that the stores cannot serve.
        DataError: When no sample could be drawn.
    """
    settings, slots = run.sampling, run.slots or None
    sizes = tuple(store.sizes("train"))
    require(
        len(settings.rates) in (0, len(sizes)), "sampling.rates", list(settings.rates),
        f"one number for each of {len(sizes)} stores ({store.name})",
        "give as many as stores in --data, or none to draw from them as from one",
    )
    column = _read_column(store, settings)
    labelled = _labelled(store, labels) if settings.labelled_share else None
    longest = longest_run(store, run.batch, slots, parts=len(settings.rates) or 1 + bool(settings.labelled_share))
    whole = None if column is None else column.weights(0, sum(sizes))
    order: SampleOrder
    if settings.rates:
        order = mix_stores(sizes, settings.rates, run.seed, run.batch, slots, longest, _store_weights(column, sizes))
    elif labelled is not None:
        weights = None if column is None else (column.among(labelled), column.among(~labelled))
        order = mix_labelled(labelled, settings.labelled_share, run.seed, run.batch, slots, longest, weights)
    elif whole is not None:
        order = weighted_order(whole, run.seed, run.batch, slots=slots, longest_run=longest)
    else:
        order = Order(sum(sizes), run.seed, run.batch, longest, slots=slots)
    return Sampling(order, column, labelled, sizes)


def check_stores(store: JoinedStores) -> None:
    """Refuse stores that a run cannot train on together.

    Raises:
        ConfigError: For a store that is named twice, or too few samples of split=train.
    """
    sizes, digests = store.sizes("train"), dict[str, str]()
    for part, size in zip(store.stores, sizes, strict=True):
        if part.digest in digests:
            raise ConfigError(f"--data: {digests[part.digest]} and {part.path} are the same store. Name it once; "
                              "--sampling.weights makes samples come more often.")
        digests[part.digest] = str(part.path)
        if not size and len(sizes) > 1:
            raise ConfigError(f"--data: split=train of {part.path} holds no samples; leave that store out.")
    if sum(sizes) < 2:
        raise ConfigError(f"{store.name}: split=train holds {sum(sizes)} samples; pretraining needs 2 or more.")


def _store_weights(column: DrawColumn | None, sizes: Sequence[int]) -> list[Weights | None]:
    """Of each store's own samples; None for a store without values, whose samples come evenly."""
    stops = np.cumsum(sizes).tolist()
    return [None if column is None else column.weights(stop - size, stop)
            for size, stop in zip(sizes, stops, strict=True)]


def _labelled(store: JoinedStores, labels: Sequence[LabelSet]) -> npt.NDArray[np.bool_]:
    rows = np.logical_or.reduce([found.rows for found in labels])
    labelled: npt.NDArray[np.bool_] = rows[store.split("train").all()]
    if labelled.all():
        raise ConfigError("sampling.labelled_share: every sample of split=train has a label, so there are no others to "
                          "share a batch with. Leave the share out.")
    return labelled


def _read_column(store: JoinedStores, settings: SamplingConfig) -> DrawColumn | None:
    name = settings.balance or settings.weights
    if not name:
        return None
    asked = f"--sampling.{'balance' if settings.balance else 'weights'} {name}"
    having = tuple(name in part.columns() for part in store.stores)
    if not any(having):
        known = sorted({column for part in store.stores for column in part.columns()})
        raise ConfigError(f"{asked}: {store.name} has no such column.{did_you_mean(name, known)} Columns: "
                          f"{', '.join(known)}.")
    classes: tuple[str, ...] = ()
    if settings.balance:
        numbers, classes = read_classes(store, name, asked)
        # As small as it goes: every loader process has a copy.
        values = numbers.astype(np.int16 if len(classes) < 2**15 else np.int32)
    else:
        # With rates each store is drawn from by itself, so one without weights is drawn from evenly.
        values = _read_weights(store, name, asked, having if settings.rates else (True,) * len(having))
    found = tables_of(store, name)
    tables = tuple(tuple(table.name for table in own) for own in found)
    return DrawColumn(name, values[store.split("train").all()], classes, settings.exponent,
                      joined_notes(chain(*found)), tables)


def _read_weights(store: JoinedStores, name: str, asked: str, needed: Sequence[bool]) -> Float64:
    """(N,) weights; every training sample of the stores that need them has one."""
    raw = store.column(name)
    if raw.dtype.kind not in "biuf":
        raw = _as_numbers(raw, asked)
    values: Float64 = raw.astype(np.float64)
    needs = in_train(store) & np.repeat(needed, np.diff(store.starts))
    bad = np.flatnonzero(needs & ~((values >= 0) & np.isfinite(values)))
    if bad.size:
        several = len(store.stores) > 1
        hint = " A store without the column can take part at a rate of its own: --sampling.rates." if several else ""
        part = store.stores[int(np.searchsorted(store.starts, bad[0], side="right")) - 1]
        first = part.ids[int(bad[0] - store.starts[store.stores.index(part)])]
        shown = "none" if np.isnan(values[bad[0]]) else f"{values[bad[0]]:g}"
        raise ConfigError(
            f"{asked}: {bad.size} of {int(needs.sum())} samples of split=train have no weight that can be used, the "
            f"first {shown} at id {first!r} of {part.path}. Every sample needs a number of 0 or more; 0 leaves it out."
            f"{hint}"
        )
    return values


def _as_numbers(raw: np.ndarray, asked: str) -> Float64:
    try:
        return np.array([np.nan if value is None else float(value) for value in raw], np.float64)
    except (TypeError, ValueError):
        odd = next(value for value in raw if value is not None)
        raise ConfigError(f"{asked}: it holds {odd!r}, expected numbers. For classes use --sampling.balance.") from None
