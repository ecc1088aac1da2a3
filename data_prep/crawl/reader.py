"""Reading the parts of a crawl: records -> images in one form, filtered, as samples and refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from sciencessl.data_prep.crawl.containers import records
from sciencessl.data_prep.crawl.hooks import Hooks, check_drops
from sciencessl.data_prep.crawl.indexing import rows_of
from sciencessl.data_prep.crawl.kept import fit
from sciencessl.data_prep.crawl.record import FILES, Part, Record
from sciencessl.data_prep.decode import Canonical, Encoded, Refused, canonicalise, hash_bytes
from sciencessl.data_prep.isolated import Limits, isolated_map
from sciencessl.data_prep.source import Input, Item, Task
from sciencessl.data_prep.split import SPLIT_NAMES, assign_split
from sciencessl.errors import ConfigError
from sciencessl.spec import FieldSpec
from sciencessl.store.conditions import Condition
from sciencessl.store.in_place import Reference
from sciencessl.store.writer import PreparedSample, Refusal


@dataclass(frozen=True)
class SplitRule:
    """How the split of an image follows from what comes with it.

    Attributes:
        group: Name of what keeps images together; empty means that each stands alone.
        given: Name of what says the split; empty means that it is drawn by the group.
        seed: Of the draw.
        test: Share of groups in test.
        val: Share of groups in val.
    """

    group: str = ""
    given: str = ""
    seed: int = 0
    test: float = 0.0
    val: float = 0.0

    def of(self, identifier: str, meta: Mapping[str, Any]) -> tuple[str, str]:
        """(group, split) of an image.

        Raises:
            Refused: When a split is given and is none.
        """
        group = (fit(meta.get(self.group), "text") if self.group else None) or identifier
        if not self.given:
            return group, assign_split(group, self.seed, self.test, self.val)
        named = str(meta.get(self.given, ""))
        if named.lower() not in SPLIT_NAMES:
            raise Refused("no-split", f"{self.given!r} is {named!r}, expected train, val or test")
        return group, SPLIT_NAMES[named.lower()]


@dataclass(frozen=True)
class CrawlReader:
    """Reads the parts of a task one after the other. Pickles; files are opened where it is used.

    Attributes:
        field: The field as stored.
        name: Its name.
        canonical: The one form of images, and what is filtered.
        limits: Of decoding one image.
        split: How splits are known.
        columns: What comes with images and stays -> its type, see `kept.column_types`.
        in_place: Store references to images that are in their form where they lie.
        hooks: Scores of the user's own.
        drops: Conditions by which images are refused.
    """

    field: FieldSpec
    name: str
    canonical: Canonical
    limits: Limits
    split: SplitRule
    columns: Mapping[str, str]
    in_place: bool = False
    hooks: tuple[str, ...] = ()
    drops: tuple[Condition, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of what comes with images that is used."""
        return tuple(dict.fromkeys(name for name in (*self.columns, self.split.group, self.split.given) if name))

    def read(self, task: Task) -> Iterator[Item]:
        """One sample or one refusal for each image, in order."""
        for entry in task.inputs:
            if isinstance(entry.handle, Part):
                yield from self._read(entry, entry.handle)
            else:
                yield from entry.handle

    @cached_property
    def scores(self) -> Hooks:
        """The hooks, ready to be called."""
        return Hooks(self.hooks, self.field, self.canonical)

    def fingerprint(self, entry: Input) -> str:
        """Nothing: images are compared one by one, not by the file that holds them."""
        return ""

    def _read(self, entry: Input, part: Part) -> Iterator[Item]:
        numbered = _numbered(entry, part, self.wanted)
        # The records that are being decoded, in order: results come back in the order in which they were asked for.
        waiting: list[_Numbered] = []

        def raws() -> Iterator[bytes | Refused]:
            for each in numbered:
                waiting.append(each)
                yield each.record.refused or each.record.raw

        work = partial(canonicalise, field=self.field, options=self.canonical)
        decoded = ((waiting.pop(0), found) for found in isolated_map(work, raws(), self.limits))
        for each, found in self.scores.apply(decoded):
            try:
                yield self._sample(part, each, found)
            except Refused as refused:
                yield Refusal(each.id, refused.reason, refused.detail)

    def _sample(self, part: Part, each: _Numbered, found: Encoded | Refused) -> PreparedSample:
        if isinstance(found, Refused):
            raise found
        record = each.record
        group, split = self.split.of(each.id, record.meta)
        kept = {name: fit(record.meta.get(name), kind) for name, kind in self.columns.items()}
        if clash := kept.keys() & found.columns.keys():
            raise ConfigError(f"--hooks: one gives a column {min(clash)!r}, and so does --keep or --label; rename the "
                              "hook's.")
        columns = {
            **kept, **found.columns, "group": group, "shard": part.place.name, "width": found.width,
            "height": found.height, "content_hash": hash_bytes(record.raw), "pixel_hash": found.pixel_hash,
        }
        check_drops({"id": each.id, "split": split, **columns}, self.drops)
        return PreparedSample(each.id, split, {self.name: self._payload(each, found)}, columns)

    def _payload(self, each: _Numbered, found: Encoded) -> bytes:
        """The image itself, or where it lies if it may stay there."""
        raw, offset = each.record.raw, each.record.offset
        if self.in_place and each.file and offset >= 0 and found.payload == raw:
            return Reference.to(raw, each.file, offset).pack()
        return found.payload


class _Numbered(NamedTuple):
    """A record with its id, and the file that it lies in: its name below the root."""

    id: str
    file: str
    record: Record


def _numbered(entry: Input, part: Part, wanted: tuple[str, ...]) -> Iterator[_Numbered]:
    """The records of a part. What ends a place ends all that is left of it, and leaves a record for each."""
    rows, ids = rows_of(part), iter(entry.ids)
    own = part.place.kind == FILES
    files = iter([_file_name(raw) for raw in rows["file"].to_pylist()] if own
                 else [part.place.name] * len(rows))
    keys = iter(rows["key"].to_pylist())
    try:
        for record in records(part.place, rows, wanted):
            next(keys)
            yield _Numbered(next(ids), next(files), record)
    except Refused as refused:
        for key, identifier in zip(keys, ids, strict=True):
            yield _Numbered(identifier, "", Record(key, b"", refused=refused))


def _file_name(raw: bytes) -> str:
    """Empty where it is no text: such a file is stored rather than referred to."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""


def sample_of(part: Part, count: int) -> Iterator[Mapping[str, Any]]:
    """All that comes with the first records of a part."""
    short = replace(part, stop=min(part.stop, part.first + count))
    try:
        yield from (record.meta for record in records(short.place, rows_of(short), ("all",)))
    except Refused:
        return
