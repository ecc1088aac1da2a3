"""Is the test new to what was learned from? The label pool, and what pretraining saw, are compared with it.

A test sample that is in the label pool, as itself or as a copy, is refused. So is one that pretraining saw under
another name: in a crawl nobody knows what is there. Seen under its own name it makes the run `transductive`, a mark
(`sciencessl.evaluate.seen`) and no refusal: data was chosen so. With another store to test on (`--test STORE`) this too
is refused, because it is called new.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sciencessl.errors import LeakError
from sciencessl.evaluate.encoders import Encoder
from sciencessl.evaluate.pretrained_on import NAME, Seen, other_copies, what_was_seen
from sciencessl.evaluate.results import LeakCheck
from sciencessl.evaluate.seen import Mark
from sciencessl.evaluate.tasks import TaskData
from sciencessl.registry import load_domain
from sciencessl.store.audit_record import COPY, LOOK_ALIKE, PLACE, Evidence
from sciencessl.store.audit_report import PAGE, REMOVE, Page, pair_words, sentence, write_report
from sciencessl.store.audited import ACCEPT, ACCEPTED
from sciencessl.store.evidence import by_names, by_place, only
from sciencessl.store.files import write_atomic
from sciencessl.store.near_copies import PERCEPTUAL, RADIUS
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side, near_things

FOLDER, PAIRS = "leak", "pairs.csv"
"""Below the folder of results: where pairs are shown, and the list of them."""
POOL, PRETRAINING = "label pool", "pretraining"
EXAMPLES = 3
MEANS = f"{NAME}, contents and {PERCEPTUAL} within {RADIUS} bits, confirmed by pixels"


@dataclass(frozen=True)
class Compared:
    """One side that was learned from, compared with the test.

    Attributes:
        what: `POOL` or `PRETRAINING`.
        seen: What it shares.
        test: The test samples.
        runs: That learned from it; none for the label pool.
        refused: Ids of the test samples that make it a leak.
    """

    what: str
    seen: Seen
    test: Side
    runs: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()

    @property
    def shown(self) -> tuple[Evidence, ...]:
        """What makes it a leak, and look-alikes."""
        alike = (entry for entry in self.seen.evidence if entry.kind == LOOK_ALIKE)
        return (*filter(None, (only(entry, self.refused) for entry in self.seen.confirmed)), *alike)

    @property
    def words(self) -> str:
        """What makes it a leak, as a clause."""
        whom = f"{len(self.refused):,} of {len(self.test.index):,} test samples of {self.test.store.path}"
        if self.what == PRETRAINING:
            said = f"were seen in pretraining ({', '.join(self.runs)}), in {self.seen.path}"
        else:
            where = "" if self.seen.path == str(self.test.store.path) else f" of {self.seen.path}"
            said = f"are the same thing as samples of the label pool{where}"
        return f"{whom} {said}: {'; '.join(_clause(entry) for entry in self.shown if entry.kind != LOOK_ALIKE)}"

    def record(self) -> LeakCheck:
        """For the result."""
        return LeakCheck(
            self.what, self.seen.path, self.runs, None if self.seen.train is None else len(self.seen.train.index),
            len(self.test.index), len(self.seen.ids), len(self.refused),
            {entry.by: entry.samples for entry in self.seen.confirmed},
            sum(entry.samples for entry in self.seen.evidence if entry.kind == LOOK_ALIKE), self.seen.unknown,
        )


def _clause(entry: Evidence) -> str:
    first, such = entry.pairs[0], ", ".join(entry.ids[:EXAMPLES])
    if entry.kind == PLACE:
        such += f", {pair_words(first)}"
    if entry.kind == COPY:
        such = f"{first.test} and {first.pool}, {pair_words(first)}"
    return f"{entry.samples:,} by {entry.by} (such as {such})"


@dataclass(frozen=True)
class Leaks:
    """The test against everything that was learned from.

    Attributes:
        compared: The label pool, and each training store of the runs.
        seen: Run -> what its training stores share with the test.
    """

    compared: tuple[Compared, ...]
    seen: Mapping[str, tuple[Seen, ...]]

    @property
    def refused(self) -> tuple[Compared, ...]:
        """What makes the test leak."""
        return tuple(each for each in self.compared if each.refused)

    @property
    def pool(self) -> str:
        """What the label pool shares, in words; empty for nothing."""
        return next((each.words for each in self.refused if each.what == POOL), "")

    def lines(self) -> list[str]:
        """For people: that nothing was found or what was accepted, look-alikes, and what could not be compared."""
        lines = [f"warning: {ACCEPTED.lower()}: {each.words}." for each in self.refused]
        alike = [entry for each in self.compared for entry in each.shown if entry.kind == LOOK_ALIKE]
        lines += [f"warning: {sentence(entry)}" for entry in alike]
        lines += [f"note: {words}" for words in dict.fromkeys(each.seen.unknown for each in self.compared) if words]
        lines += [f"note: whether pretraining saw test samples is unknown: {each.seen.path} is gone or has changed"
                  for each in self.compared if each.seen.train is None]
        return lines or [f"leak check: no test sample is in the label pool{self._beyond()} ({MEANS})"]

    def _beyond(self) -> str:
        trained = any(each.what == PRETRAINING and each.seen.train is not None for each in self.compared)
        return ", nor under another name in what pretraining saw" if trained else ""

    def marked(self, run: str, mark: Mark) -> Mark:
        """A run's mark with what was found of test samples in its training stores."""
        own = [each for each in self.compared if run in each.runs and each.seen.train is not None]
        said = [f"{ACCEPTED}: {each.words}." for each in own if each.refused]
        said += [f"In {each.seen.path} it saw {len(each.seen.ids):,} of {len(each.test.index):,} test samples "
                 f"({_counted(each.seen.confirmed)})." for each in own if each.seen.ids and not each.refused]
        said += [each.seen.unknown for each in own if each.seen.unknown]
        if own and not said and not any(seen.train is None for seen in self.seen[run]):
            said = [f"No test image is in what it saw: compared by {MEANS}."]
        leak = mark.leak or any(each.refused for each in own)
        return replace(mark, sentence=" ".join([mark.sentence, *said]), leak=leak)


def _counted(evidence: Sequence[Evidence]) -> str:
    return ", ".join(f"{entry.samples:,} by {entry.by}" for entry in evidence)


def check_leak(
    store: Store, data: TaskData, other: Store, *, folds: Sequence[TaskData] = (), runs: Sequence[Encoder] = (),
    accept: bool = False, folder: Path | None = None,
) -> Leaks:
    """Refuse a test whose samples, or copies of them, are in the label pool, or where pretraining saw them.

    What makes a test sample the same thing as one of the pool: `sciencessl.store.sides.same_things`, `near_things` that
    are the same, and `near_copies`; groups are the bag and unit of the task, the recorded group and the domain's
    identity. Of training stores: `what_was_seen`. Copies that were turned or mirrored are for `sciencessl store audit`
    to find.

    Args:
        store: Of the pool.
        data: The task.
        other: Of the test samples; may be the same store.
        folds: With cross-validation, the folds of one deal, each with a pool of its own.
        runs: Whose training stores are compared too.
        accept: Do not refuse.
        folder: Where pairs are shown (`report.html`, `pairs.png`) and listed (`pairs.csv`, and `remove.txt` with the
            ids of the test samples that leak); what is there of an earlier check is deleted.

    Raises:
        LeakError: With how many test samples, by what, and examples.
    """
    pools = [_pool(store, fold, other) for fold in folds or (data,)]
    compared = [next((pool for pool in pools if pool.refused), pools[0])]
    test = Side(other, data.test_samples, "test")
    known: dict[tuple[str, ...], Seen] = {}
    seen = {run.name: what_was_seen(run.card, (other, store), test, known) for run in runs}
    for each in known.values():
        names = tuple(name for name, found in seen.items() if any(part is each for part in found))
        refused = each.renamed if other is store else each.ids
        compared.append(Compared(PRETRAINING, each, test, names, refused))
    leaks = Leaks(tuple(compared), seen)
    if folder is not None:
        _write(leaks, other, folder)
    if leaks.refused and not accept:
        told = f" Pairs: {folder}/{PAGE}, {PAIRS}." if folder is not None else ""
        raise LeakError(f"{'; '.join(each.words for each in leaks.refused)}. The test would leak.{told} "
                        f"{_fix(leaks, store, other, folder)} {ACCEPT}")
    return leaks


def _pool(store: Store, data: TaskData, other: Store) -> Compared:
    pool, test = Side(store, data.pool_samples, POOL), Side(other, data.test_samples, "test")
    own = [data.task.bag] if data.train_bags is not None else []
    groups = dict.fromkeys([*own, data.task.unit, "group", *load_domain(store.header.domain).identity])
    evidence = list(by_names(pool, test, tuple(groups)))
    places = (rule for rule in near_things(pool, test) if rule.same and (rule.match >= 0).any())
    evidence += [by_place(pool, test, rule) for rule in places]
    copies, unknown = other_copies(pool, test, evidence)
    seen = Seen(str(store.path), pool, (*evidence, *copies), unknown)
    return Compared(POOL, seen, test, (), seen.ids)


def _fix(leaks: Leaks, store: Store, other: Store, folder: Path | None) -> str:
    """What to do."""
    named = f"{folder}/{REMOVE}" if folder is not None else "FILE"
    withdraw = f"withdraw them from the test (`sciencessl store remove {other.path} --ids {named} --reason leak`)"
    if not leaks.pool:
        return (f"{withdraw[0].upper()}{withdraw[1:]}, or withdraw what equals them from the training store and train "
                "again: what a run has seen it has seen.")
    if store.digest == other.digest:
        return f"Prepare it with --group COLUMN, which keeps what belongs together in one split, or {withdraw}."
    return (f"Prepare one store without them, or {withdraw}; where they only share a name, prepare one with ids and "
            "groups of its own.")


def _write(leaks: Leaks, other: Store, folder: Path) -> None:
    shown = [(each, entry) for each in leaks.compared for entry in each.shown]
    stores = {each.seen.train.name: each.seen.train.store for each, _ in shown if each.seen.train is not None}
    lines = [f"compared: {len(each.test.index):,} test samples with {len(each.seen.train.index):,} of {each.seen.path} "
             f"({each.what}{f' of {chr(44).join(each.runs)}' if each.runs else ''})"
             for each in leaks.compared if each.seen.train is not None]
    verdict = "LEAK: the test is not new" if leaks.refused else "some test images look like what was learned from"
    page = Page(f"Leak check of {other.path}", verdict, [*lines, *(sentence(entry) for _, entry in shown)],
                [entry for _, entry in shown], _fix(leaks, other, other, folder) if leaks.refused else "",
                f"test store {other.digest}")
    write_report(page, {**stores, "test": other}, folder)
    if not shown:
        (folder / PAIRS).unlink(missing_ok=True)
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["test", "what", "store", "sample", "by", "confirmed", "words"])
    for each, entry in shown:
        pairs = {pair.test: (pair.pool, pair_words(pair)) for pair in entry.pairs}
        for name in entry.ids:
            sample, words = pairs.get(name, ("", ""))
            table.writerow([name, each.what, each.seen.path, sample, entry.by, entry.kind != LOOK_ALIKE, words])
    write_atomic(folder / PAIRS, text.getvalue().encode())
