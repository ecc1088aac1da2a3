"""`store dedup`: groups of samples that are copies of each other, of which one is kept.

Copies are found level by level: equal bytes, equal pixels, near perceptual hashes whose pixels are alike, and where
there are some, near embeddings. Whatever is connected by any of them is one group. The result is a table; withdrawing
is a second step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.store.confirmed import Links, confirmed
from sciencessl.store.dedup_samples import BYTES, HASHES, PHASH, PIXELS, Samples, store_columns
from sciencessl.store.distinct import chunks
from sciencessl.store.format import SPLITS
from sciencessl.store.hamming import MOST_RADIUS, near_pairs
from sciencessl.store.reader import Store
from sciencessl.store.removals import withdraw
from sciencessl.store.tables import write_table
from sciencessl.store.union_find import Components
from sciencessl.views.perceptual import FLAT

EMBEDDING, CHAIN = "embedding", "chain"
LEVELS = (BYTES, PIXELS, PHASH)
KEEP = ("largest", "sharpest", "first")
"""Which sample of a group is kept."""
TABLE = "duplicates"
RADIUS = 3
REASON = "duplicate"
_FACTS = ["id", "key", "split", "width", "height", "source_width", "source_height", "sharpness"]
_RANK = np.array([{"test": 0, "val": 1, "train": 2}[name] for name in SPLITS])
"""What of several splits is kept: what learns must not have what is tested."""


@dataclass(frozen=True)
class Groups:
    """The k samples that have a copy, in order of their numbers.

    Attributes:
        number: (k,) int64; those of the store itself, then those of the other one.
        component: (k,) int64, the smallest number of each one's group.
        keeper: (k,) int64, the number of the sample that is kept of it.
        by: k names: by what a sample is a copy of the one that is kept, `chain` where only others of its group connect
            them; empty for that one itself.
        distance: (k,) int64 bits between the perceptual hashes of these two; -1 where one has none.
        score: (k,) float32 likeness of their pixels or embeddings; NaN where it was not asked for.
        ids: k names.
        split: (k,) positions in `SPLITS`.
    """

    number: np.ndarray
    component: np.ndarray
    keeper: np.ndarray
    by: tuple[str, ...]
    distance: np.ndarray
    score: np.ndarray
    ids: tuple[str, ...]
    split: np.ndarray


@dataclass(frozen=True)
class DedupReport:
    """What `dedup` found, and did.

    Attributes:
        store: Path.
        against: Path of the other store, or empty.
        samples: Samples of the store that were compared: all that are not withdrawn.
        levels: Level -> samples that are copies by this level and were none by those before it.
        candidates: Pairs of near hashes whose pixels were looked at.
        rejected: Those of them whose pixels are not alike.
        cosine: Above which embeddings are near; None where none were given.
        groups: Groups with two samples or more.
        sizes: Samples in a group -> groups.
        copies: Samples of the store that are copies of one that is kept.
        splits: Split -> these.
        spanning: Groups with samples in several splits: leaks.
        flat: Samples without a perceptual hash, because their image has no contrast or cannot be read.
        notes: What was not looked at, as sentences.
        withdrawn: Samples withdrawn by this call.
        table: Digest of the table; empty in a dry run.
        report: Folder of the page, or empty where there is none.
        seconds: Wall time.
        dry_run: Nothing was written.
    """

    store: str
    against: str
    samples: int
    levels: dict[str, int]
    candidates: int
    rejected: int
    cosine: float | None
    groups: int
    sizes: dict[int, int]
    copies: int
    splits: dict[str, int]
    spanning: int
    flat: int
    notes: tuple[str, ...] = ()
    withdrawn: int = 0
    table: str = ""
    report: str = ""
    seconds: float = 0.0
    dry_run: bool = False


def dedup(
    store: str | Path, against: str | Path = "", by: Sequence[str] = LEVELS, radius: int = RADIUS,
    embeddings: str | Path = "", cosine: float | None = None, keep: str = "largest", out: str | Path = "", *,
    confirm: bool = True, remove: bool = False, dry_run: bool = False,
) -> DedupReport:
    """Find copies among the samples of a store, and write which one of each group is kept.

    Of a group that lies in several splits a test sample is kept rather than one of val, and that rather than one of
    train; then decides `keep`, the size of the source image, the bytes that are stored, and the smaller key: the
    result does not depend on the order of anything.

    Args:
        store: A sealed store. It gets the table `duplicates`.
        against: Another one, whose samples are all kept: what it has is a copy here.
        by: Of `bytes`, `pixels` and `phash`.
        radius: Bits by which perceptual hashes of copies differ at most; up to 7.
        embeddings: Folder that `embed` wrote for the store; a level of its own, not with `against`.
        cosine: Of two embeddings, above which they are copies; by default measured as `copies.fit_null` does.
        keep: `largest` source image, `sharpest` (column `sharpness`), or `first` in the store.
        out: Folder of the report; by default `NAME.dedup` beside the store.
        confirm: Whether pixels must be alike too where perceptual hashes are near. Without, other images of one kind
            are taken for copies.
        remove: Withdraw the copies, with the reason `duplicate`.
        dry_run: Count, and write nothing.

    Raises:
        ConfigError: For an unknown level or rule, a radius that is not searched, a cosine without embeddings, or a
            store against itself.
        StoreError: When a store is missing, unsealed or damaged, or another process writes it.
        DataError: When embeddings are of another store, or too few to measure what is near.
    """
    began = time.perf_counter()
    _check(by, radius, keep, embeddings, cosine, against)
    stores = (Store(store), *([Store(against)] if str(against) else []))
    if len({each.path.resolve() for each in stores}) < len(stores):
        raise ConfigError(f"{store} would be deduplicated against itself, and all of its samples would go; without "
                          "--against, copies within it are found.")
    with tempfile.TemporaryDirectory(prefix="dedup-", ignore_cleanup_errors=True) as scratch:
        samples = Samples(stores, Path(scratch))
        _check_sharpness(samples, keep)
        search = _Search(samples, radius, confirm)
        for level in LEVELS:
            if level in by:
                search.level(level)
        if str(embeddings):
            search.embeddings(Path(embeddings), cosine)
        found = search.groups(keep)
        report = _report(samples, search, found)
        if not dry_run:
            report = _written(report, samples, found, search.rejected, out, remove)
    return replace(report, seconds=time.perf_counter() - began, dry_run=dry_run)


def _check(
    by: Sequence[str], radius: int, keep: str, embeddings: str | Path, cosine: float | None, against: str | Path
) -> None:
    for level in by:
        if level not in LEVELS:
            raise ConfigError(unknown_name("level of copies", level, LEVELS))
    if not by and not str(embeddings):
        raise ConfigError(f"no level of copies was named; give some of {', '.join(LEVELS)}, or embeddings.")
    if keep not in KEEP:
        raise ConfigError(unknown_name("rule to keep by", keep, KEEP))
    if not 0 <= radius <= MOST_RADIUS:
        raise ConfigError(f"radius {radius}; perceptual hashes of copies differ in 0 to {MOST_RADIUS} of 64 bits, most "
                          "in 3 or fewer.")
    if cosine is not None and not str(embeddings):
        raise ConfigError(f"cosine {cosine:g} without embeddings; give the folder that `sciencessl embed` wrote.")
    if str(embeddings) and str(against):
        raise ConfigError("embeddings are of one store; deduplicate it by these alone, and then against another.")


def _check_sharpness(samples: Samples, keep: str) -> None:
    for store in samples.stores[:1] if keep == "sharpest" else ():
        if "sharpness" not in store_columns(store):
            raise ConfigError(f"{store.path} has no column 'sharpness' to keep the sharpest by; crawls are prepared "
                              "with one. Keep the largest.")


@dataclass
class _Search:
    """Goes through the levels, and remembers what they connect."""

    samples: Samples
    radius: int
    confirm: bool
    components: Components = field(default_factory=Components)
    levels: dict[str, int] = field(default_factory=dict)
    links: list[Links] = field(default_factory=list)
    rejected: Links = field(default_factory=lambda: Links.joined([]))
    candidates: int = 0
    flat: int = 0
    cosine: float | None = None
    notes: list[str] = field(default_factory=list)

    def level(self, level: str) -> None:
        """One of `LEVELS`, of the samples that are no copies so far."""
        column = self.samples.hashes(level)
        if column is None:
            self.notes.append(f"Equal {level} were not looked for: a store has no column {HASHES[level]!r}.")
            return
        if level == PHASH:
            gone = sum(len(store.removed) for store in self.samples.stores)
            self.flat = int(sum((part == FLAT).sum() for part in chunks(column))) - gone
        numbers, roots = self.components.found()
        column[numbers[numbers != roots]] = FLAT
        if level == PHASH and self.confirm:
            self._confirmed(column)
        else:
            for one, other, _ in near_pairs(column, self.radius if level == PHASH else 0, scratch=self.samples.scratch):
                self.components.add(one, other)
        self._count(level)

    def _confirmed(self, column: np.ndarray) -> None:
        equal: list[Links] = []
        near: list[Links] = []
        for one, other, distance in near_pairs(column, self.radius, scratch=self.samples.scratch):
            (near if distance.any() else equal).append(Links.of(one, other))
        found, self.rejected = confirmed(Links.joined(equal), Links.joined(near), self.samples.picture)
        self.candidates = len(found) + len(self.rejected)
        self.components.add(found.one, found.other)
        self.links.append(found)

    def embeddings(self, folder: Path, cosine: float | None) -> None:
        """Near embeddings, of samples that are no copies so far."""
        from sciencessl.curate.near_embeddings import near_embeddings

        store = self.samples.stores[0]
        numbers, roots = self.components.found()
        index = np.setdiff1d(store.present.all(), numbers[numbers != roots])
        self.cosine, blocks = near_embeddings(store, folder, index, cosine)
        for one, other, score in blocks:
            self.components.add(one, other)
            self.links.append(Links(one, other, score))
        self._count(EMBEDDING)

    def _count(self, level: str) -> None:
        numbers, roots = self.components.found()
        self.levels[level] = int((numbers != roots).sum()) - sum(self.levels.values())

    def groups(self, keep: str) -> Groups:
        """The groups with a sample of the store, and what is kept of each."""
        number, component = self.components.found()
        mine = np.isin(component, component[number < self.samples.own])
        number, component = number[mine], component[mine]
        sizes = {f"{store.primary}.size": None for store in self.samples.stores}
        facts = self.samples.facts(number, [*_FACTS, *HASHES.values(), *sizes])
        split = np.array([SPLITS.index(name) for name in facts["split"].to_pylist()], np.int64)
        keeper = _keepers(facts, [*sizes], number, component, split, number < self.samples.own, keep)
        by, distance = self._likeness(facts, number, keeper)
        score = np.full(len(number), np.nan, np.float32)
        links = Links.joined(self.links)
        for one, other in ((links.one, links.other), (links.other, links.one)):
            place = np.minimum(np.searchsorted(number, one), max(len(number) - 1, 0))
            direct = np.flatnonzero((number[place] == one) & (keeper[place] == other)) if len(number) else place
            score[place[direct]] = links.score[direct]
        named = tuple(EMBEDDING if name == CHAIN and self.cosine is not None and value > self.cosine else name
                      for name, value in zip(by, score.tolist(), strict=True))
        return Groups(number, component, keeper, named, distance, score, tuple(facts["id"].to_pylist()), split)

    def _likeness(self, facts: pa.Table, number: np.ndarray, keeper: np.ndarray) -> tuple[list[str], np.ndarray]:
        """By what each sample is like the one that is kept, and the bits between their hashes."""
        by = np.full(len(number), CHAIN, object)
        distance = np.full(len(number), -1, np.int64)
        kept = np.searchsorted(number, keeper)
        if PHASH in self.levels:
            values = np.array(self.samples.hashes(PHASH))[number]
            apart = np.bitwise_count(values ^ values[kept]).astype(np.int64)
            distance = np.where((values != FLAT) & (values[kept] != FLAT), apart, -1)
            by[(distance >= 0) & (distance <= self.radius)] = PHASH
        for level in (PIXELS, BYTES):
            if level in self.levels:
                texts = np.array(facts[HASHES[level]].to_pylist(), object)
                by[[text is not None and text == same for text, same in zip(texts, texts[kept], strict=True)]] = level
        by[number == keeper] = ""
        return by.tolist(), distance


def _keepers(
    facts: pa.Table, sizes: list[str], number: np.ndarray, component: np.ndarray, split: np.ndarray, own: np.ndarray,
    keep: str,
) -> np.ndarray:
    """(k,) the number that is kept of each sample's group; `own` says which are not of the other store."""

    def values(name: str) -> np.ndarray:
        if name not in facts.column_names:
            return np.zeros(len(number))
        return np.asarray(np.nan_to_num(facts[name].cast(pa.float64()).to_numpy()))

    area = values("source_width") * values("source_height")
    area = np.where(area > 0, area, values("width") * values("height"))
    stored = np.max([values(name) for name in sizes], axis=0)
    key = np.frombuffer(b"".join(facts["key"].to_pylist()) if len(number) else b"", ">u8").reshape(-1, 2)
    wish = {"largest": -area, "sharpest": -values("sharpness"), "first": number}[keep]
    order = np.lexsort((number, key[:, 1], key[:, 0], -stored, -area, wish, _RANK[split], own, component))
    groups, first = np.unique(component[order], return_index=True)
    kept: np.ndarray = number[order][first][np.searchsorted(groups, component)]
    return kept


def _report(samples: Samples, search: _Search, found: Groups) -> DedupReport:
    store = samples.stores[0]
    mine = found.number < samples.own
    copies = mine & (found.number != found.keeper)
    splits = {name: int((found.split[copies] == place).sum()) for place, name in enumerate(SPLITS)}
    groups, place, size = np.unique(found.component, return_inverse=True, return_counts=True)
    several = np.zeros((len(groups), len(SPLITS)), bool)
    several[place[mine], found.split[mine]] = True
    sizes, count = np.unique(size, return_counts=True)
    return DedupReport(
        str(store.path), str(samples.stores[1].path) if len(samples.stores) > 1 else "",
        len(store) - len(store.removed), search.levels, search.candidates, len(search.rejected), search.cosine,
        len(groups), dict(zip(sizes.tolist(), count.tolist(), strict=True)), int(copies.sum()), splits,
        int((several.sum(axis=1) > 1).sum()), search.flat, tuple(search.notes),
    )


def _written(
    report: DedupReport, samples: Samples, found: Groups, rejected: Links, out: str | Path, remove: bool
) -> DedupReport:
    """The table, the page and, on request, the removals."""
    from sciencessl.store.dedup_report import write_page

    store = samples.stores[0]
    mine = np.flatnonzero(found.number < samples.own)
    ids = found.ids
    place = np.searchsorted(found.number, found.keeper[mine])
    table = pa.table({
        "id": pa.array([ids[i] for i in mine], pa.string()),
        "duplicate_index": pa.array(found.number[mine], pa.uint64()),
        "duplicate_group": pa.array(found.component[mine], pa.uint64()),
        "duplicate_kept": pa.array(found.number[mine] == found.keeper[mine]),
        "duplicate_of": pa.array([ids[i] for i in place], pa.string()),
        "duplicate_by": pa.array([found.by[i] or None for i in mine], pa.string()),
        "duplicate_bits": pa.array(found.distance[mine], pa.int64(), mask=found.distance[mine] < 0),
        "duplicate_score": pa.array(found.score[mine], pa.float32(), mask=np.isnan(found.score[mine])),
    })
    note = "copies" + (f" within the store and of {report.against}" if report.against else " within the store")
    written = write_table(store.path, TABLE, table, note=f"{note}, as `store dedup` found them")
    gone = 0
    if remove:
        copies = mine[found.number[mine] != found.keeper[mine]]
        gone = len(withdraw(store, found.number[copies], table["id"].combine_chunks().filter(
            pc.invert(table["duplicate_kept"].combine_chunks())), REASON))
    report = replace(report, table=written.digest, withdrawn=gone)
    return replace(report, report=write_page(report, samples, found, rejected, out))
