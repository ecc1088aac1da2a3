"""The record that an audit leaves beside a store: what was found, and of which state of the store it speaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciencessl.errors import StoreError
from sciencessl.plain import plain
from sciencessl.registry import load_domain
from sciencessl.store.copies import Null
from sciencessl.store.files import read_file, write_atomic
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import beside, store_path
from sciencessl.store.tables import REMOVALS

VERSION = 4
"""Of the audit: what an older one judged is judged again."""

LEAK, SUSPECT, CLEAN, NOTHING = "leak", "suspect", "clean", "nothing found"
"""Verdicts. Without a group column, or with images that could not be compared, nothing found is not clean."""
IDENTITY, PLACE, CONTENTS, COPY = "identity", "place", "contents", "copy"
LOOK_ALIKE, OVERLAP = "look-alike", "overlap"
"""Kinds of evidence."""
UNCONFIRMED = (LOOK_ALIKE, OVERLAP)
"""Kinds that make no leak: people are told, and nothing is refused."""
PIXELS = "pixels"
LISTED = 1000
"""Pairs that are kept of each piece of evidence."""


@dataclass(frozen=True)
class Pair:
    """A test sample and the sample of the pool that it equals or resembles most.

    Attributes:
        test: Id of the test sample.
        pool: Id of the other.
        test_index: Its index in its store.
        pool_index: Likewise.
        value: The name that both share, for evidence by names; how far apart they are, for that by places.
        score: Correlation of pixels, for copies and look-alikes.
        turn_deg: By which angle the test image is turned counterclockwise against the other.
        zoom: Its scale against the other.
        mirrored: Whether it is mirrored (top to bottom, before it is turned).
    """

    test: str
    pool: str
    test_index: int
    pool_index: int
    value: str = ""
    score: float | None = None
    turn_deg: float | None = None
    zoom: float | None = None
    mirrored: bool | None = None


@dataclass(frozen=True)
class Evidence:
    """What two sides share, by one means.

    Attributes:
        kind: `IDENTITY`, `PLACE`, `CONTENTS`, `COPY`, `LOOK_ALIKE` or `OVERLAP`.
        by: `id`, a column, what the domain calls near, `stored bytes` or `pixels`.
        pool: Name of the side that is learned from.
        test: Name of the side that is judged on.
        ids: Of all test samples concerned.
        values: Different values that both sides have, such as straddling groups; 0 for pixels and places.
        pairs: The first `LISTED`, for pixels those with the largest scores, for places the nearest.
    """

    kind: str
    by: str
    pool: str
    test: str
    ids: tuple[str, ...]
    values: int
    pairs: tuple[Pair, ...]

    @property
    def samples(self) -> int:
        """How many test samples are concerned."""
        return len(self.ids)


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        store: Path of the store.
        manifest_digest: Of the store.
        against: Path of the other store, or empty.
        against_digest: Of the other store, or empty.
        verdict: `LEAK`, `SUSPECT`, `CLEAN` or `NOTHING`.
        groups: Columns whose values must not be on both sides.
        samples: Name of each side -> samples.
        pairs: Pairs of images that were looked at.
        evidence: One entry for each means and pair of sides that share something.
        null: How alike images are that are no copies; None where too few could be read.
        confirmed_above: Score of pixels above which a pair is a copy.
        suspected_above: Score above which it is reported as a look-alike.
        unreadable: Ids of samples whose pixels could not be read.
        notes: What the verdict does not cover, as sentences.
        group: The column that was named, or empty.
        report: Folder of the page with the pairs, or empty where there are none.
        judged: `judged_digest`: an audit of another state says nothing.
        places: By what samples were compared as near each other; empty where the stores record no places.
    """

    store: str
    manifest_digest: str
    against: str
    against_digest: str
    verdict: str
    groups: tuple[str, ...]
    samples: dict[str, int]
    pairs: int
    evidence: tuple[Evidence, ...]
    null: Null | None
    confirmed_above: float | None
    suspected_above: float | None
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]
    group: str
    report: str
    judged: str
    places: tuple[str, ...] = ()

    @property
    def confirmed(self) -> tuple[Evidence, ...]:
        """The evidence that makes a leak."""
        return tuple(entry for entry in self.evidence if entry.kind not in UNCONFIRMED)


def audit_file(store: str | Path, against: str | Path = "") -> Path:
    """Where the result of an audit lies: `NAME.audit.json` beside the store, `NAME.against-OTHER.audit.json`."""
    path = store_path(store)
    return path.with_name(f"{path.stem}{against_part(against)}.audit.json")


def against_part(against: str | Path) -> str:
    """What the name of an audit says of the other store; empty without one."""
    return f".against-{store_path(against).stem}" if str(against) else ""


def report_folder(store: str | Path, against: str | Path = "") -> Path:
    """Where the pairs are shown if nothing else is asked for: `NAME.audit`, as `beside` says."""
    return beside(store, f"{against_part(against)}.audit")


def judged_digest(stores: Sequence[Store], groups: Sequence[str]) -> str:
    """Digest of all that a verdict rests on: samples, group columns, positions, removals, and the version of the audit.

    Tables of labels do not count, so that a store that was audited can be labelled.

    Args:
        stores: The one that was audited, and the one that it was audited against.
        groups: Columns whose values must not be on both sides.
    """
    parts: list[Any] = [VERSION, list(groups)]
    for store in stores:
        where = store.columns()
        positions = [c.name for c in load_domain(store.header.domain).columns if c.role == "position"]
        read = {where.get(name, "rows") for name in (*groups, *positions)} - {"rows"} | ({REMOVALS} & {*store.tables})
        parts.append([store.digest, {name: store.table(name).digest for name in sorted(read)}])
    return digest(canonical_json(parts))


def write_audit(found: Audit) -> None:
    """Write the record beside the store."""
    write_atomic(audit_file(found.store, found.against), json.dumps(plain(found), indent=1).encode())


def read_audit(store: str | Path, against: str | Path = "") -> Audit | None:
    """The record of the last audit, with paths as the stores are called now; None where there was none.

    Raises:
        StoreError: When the file is damaged, or of an earlier version.
    """
    path = audit_file(store, against)
    try:
        values: dict[str, Any] = json.loads(read_file(path))
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        values["null"] = values["null"] and Null(**values["null"])
        values["evidence"] = tuple(_evidence(entry) for entry in values["evidence"])
        if values["report"] == str(report_folder(values["store"], values["against"])):
            values["report"] = str(report_folder(store, against))
        return Audit(**{**values, "store": str(store), "against": str(against)})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({type(error).__name__}: {error}).") from error


def _evidence(values: dict[str, Any]) -> Evidence:
    return Evidence(**{**values, "ids": tuple(values["ids"]), "pairs": tuple(Pair(**p) for p in values["pairs"])})
