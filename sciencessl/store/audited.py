"""What the last audit of a store means for those who read it: refuse a leak, warn of look-alikes, ask for an audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sciencessl.errors import LeakError, OutOfReachError, StoreError
from sciencessl.store.audit_record import CONTENTS, COPY, LEAK, Audit, Evidence, judged_digest, read_audit
from sciencessl.store.audit_report import PAGE, advice, sentence
from sciencessl.store.reader import Store

ACCEPTED = "Leak accepted"
"""How sentences on a leak begin where a result carries them."""
ACCEPT = "--accept-leak uses it as it is; whatever comes of it says so."


@dataclass(frozen=True)
class Standing:
    """What an audit says of a store as it is now.

    Attributes:
        leak: What is shared, in words; empty where no leak is known.
        lines: What to tell people: a leak that was accepted, look-alikes, or that an audit is missing or out of date.
    """

    leak: str = ""
    lines: tuple[str, ...] = ()


def check_audit(store: Store, against: Store | None = None, *, accept: bool = False) -> Standing:
    """Refuse a store whose audit found a leak, if it was of the state that the store is in now.

    Args:
        store: That is learned from.
        against: Another store that is tested on; else it is the store's own splits that count.
        accept: Do not refuse.

    Raises:
        LeakError: With what is shared, where the pairs are shown, and what to do.
    """
    stores = [store, *([against] if against else [])]
    whom = " against ".join(str(one.path) for one in stores)
    try:
        found = read_audit(*(one.path for one in stores))
    except (StoreError, OutOfReachError) as error:
        return Standing(lines=(f"note: {error} Audit again: `{_command(stores)}`",))
    if found is None:
        return Standing(lines=(f"note: {whom} was never audited for leaks: `{_command(stores)}`",))
    if found.judged != judged_digest(stores, found.groups):
        return Standing(lines=(f"note: the audit of {whom} is out of date, for samples, groups or removals changed: "
                               f"`{_command(stores, found.group)}`",))
    if found.verdict != LEAK:
        return Standing(lines=tuple(f"warning: {whom}: {sentence(entry)} Pairs: {found.report}/{PAGE}"
                                    for entry in found.evidence))
    words = leak_words(found)
    if not accept:
        raise LeakError(f"the audit of {whom} found a leak: {words}. Pairs: {found.report}/{PAGE}. "
                        f"{advice(found)} {ACCEPT}")
    return Standing(words, (f"warning: {ACCEPTED.lower()}: {words}.",))


def leak_words(found: Audit) -> str:
    """What sides share, a clause for each two of them."""
    sides: dict[tuple[str, str], list[Evidence]] = {}
    for entry in found.confirmed:
        sides.setdefault((entry.test, entry.pool), []).append(entry)
    said = []
    for (test, pool), entries in sides.items():
        ids = {name for entry in entries for name in entry.ids}
        means = ", ".join(f"{entry.samples:,} by {entry.by}" for entry in entries)
        whom = f"{len(ids):,} of {found.samples[test]:,} samples of {test}"
        said.append(f"{whom} are the same thing as samples of {pool} ({means})")
    return "; ".join(said)


def audited_copies(store: Store, tested: Store) -> tuple[Evidence, ...]:
    """What an audit, if it still holds, found of samples to be tested on in split=train of a store, by contents or
    pixels.

    Args:
        store: That was learned from.
        tested: That test samples lie in; may be the same store.
    """
    against = None if tested.digest == store.digest else tested
    stores = [store, *([against] if against else [])]
    try:
        found = read_audit(*(one.path for one in stores))
    except (StoreError, OutOfReachError):
        return ()
    if found is None or found.judged != judged_digest(stores, found.groups):
        return ()
    return tuple(entry for entry in found.confirmed if entry.kind in (CONTENTS, COPY) and entry.pool == "split=train")


def _command(stores: Sequence[Store], group: str = "") -> str:
    against = f" --against {stores[1].path}" if len(stores) > 1 else ""
    return f"sciencessl store audit {stores[0].path}{against}{f' --group {group}' if group else ''}"
