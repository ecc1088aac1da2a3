"""What the engine asks of a source of data: inputs to deal out, and a way to read them.

A domain names its sources in `DomainSpec.sources` as `module:function`. The engine calls
`function(spec, sources, settings, options, out) -> Source` with the domain's own `prepare_options` and the store to be,
beside which a source may keep what it found out. One input (a file, a survey tile, a slide, a tar) may give many
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from sciencessl.spec import FieldSpec, LabelSchema
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.writer import PreparedSample, Refusal

Item = PreparedSample | Refusal
CRASHED = "crashed"
"""Reason of an input that was refused because reading it ends the process that does."""

REFUSED_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to read, opened once by the one task that it is dealt to.

    Attributes:
        id: Unique among the inputs; the sample's own id where an input is one sample.
        file: Path for people, relative to the source; stored as the row column `file`.
        size: Bytes of the file; 0 where it is missing.
        stamp: Changes when the file changes: modification time in ns, or the CRC of an archive member.
        split: One of `train`, `val`, `test`.
        columns: Row columns known before reading: group and kept catalogue columns.
        handle: What the source needs to open it; None where the file is missing.
        samples: Most samples it can give.
        expected_bytes: Payload bytes it is expected to take in the store.
        ids: Of its samples, where it may give several; empty where its own id is that of its sample.
    """

    id: str
    file: str
    size: int
    stamp: int
    split: str
    columns: Mapping[str, Any]
    handle: Any
    samples: int = 1
    expected_bytes: int = 0
    ids: Sequence[str] = ()


@dataclass(frozen=True)
class Task:
    """The inputs of one row, in key order."""

    row: int
    inputs: Sequence[Input]


@dataclass(frozen=True)
class Labels:
    """The table `labels`: `id`, classes as text, votes as numbers, the schema of the votes, and where they are from."""

    data: pa.Table
    schema: LabelSchema | None = None
    note: str = ""
    derived_from: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Source:
    """Inputs, and how to read them.

    Attributes:
        name: The name under which keys are hashed, as in `DomainSpec.sources`.
        fields: The fields as they are stored, narrowed from the domain's where needed.
        inputs: All inputs, in any order.
        settings: What changes pixels, ids or splits: enters the digests.
        read: A task -> its samples and refusals. Never raises for one bad input. Pickles, as other processes call it: a
            function of a module, or a method of an object that opens its files where it is used.
        fingerprint: An input -> digest of its contents, equal to the row column `content_hash` of its samples. Where
            these have no such column, inputs are read again and pixels are compared.
        labels: What becomes the table `labels`, or None.
        guessed: Sentences that say which columns and folders were taken for what.
        root: Folder or URL that the store may refer to, where payloads are references (`sciencessl.store.in_place`).
        close: Releases open archives.
    """

    name: str
    fields: Mapping[str, FieldSpec]
    inputs: Sequence[Input]
    settings: Mapping[str, Any]
    read: Callable[[Task], Iterator[Item]]
    fingerprint: Callable[[Input], str]
    labels: Labels | None = None
    guessed: tuple[str, ...] = ()
    root: str = ""
    close: Callable[[], None] = field(default=_nothing)

    def for_tasks(self) -> Source:
        """The same source without inputs and labels: all that a task needs, and small to send to another process."""
        return replace(self, inputs=(), labels=None, guessed=())


def refused_inputs(refused: Sequence[Refusal]) -> Iterator[Input]:
    """Samples and files that are refused before anything is read: they too have their rows. Their handle is the
    refusals themselves."""
    for part, first in enumerate(range(0, len(refused), REFUSED_AT_ONCE)):
        some = tuple(refused[first : first + REFUSED_AT_ONCE])
        told = digest(canonical_json([[entry.id, entry.reason, entry.detail] for entry in some]))
        yield Input(f"refused#{part}", "", 0, 0, "train", {"sources": told}, some, len(some),
                    ids=tuple(entry.id for entry in some))


def is_refused(entry: Input) -> bool:
    """Whether an input holds nothing but refusals, as those of `refused_inputs` do."""
    return isinstance(entry.handle, tuple) and all(isinstance(item, Refusal) for item in entry.handle)
