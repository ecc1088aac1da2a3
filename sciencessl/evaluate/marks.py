"""What an encoder's pretraining saw of a task, found out from model cards, tables and keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from sciencessl.backbones.licenses import license_words
from sciencessl.evaluate.colour_histogram import COLOUR_HISTOGRAM
from sciencessl.evaluate.encoders import Encoder
from sciencessl.evaluate.pretrained_on import Seen, ancestry, any_seen, reached, what_was_seen
from sciencessl.evaluate.seen import Mark, related, what_pretraining_saw
from sciencessl.evaluate.tasks import TaskData
from sciencessl.store.audited import ACCEPTED
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side
from sciencessl.train.folder import ModelCard


def mark_encoder(
    encoder: Encoder, store: Store, data: TaskData, test_store: Store | None = None, leak: str = "",
    seen: Sequence[Seen] | None = None,
) -> Mark:
    """Mark an encoder against a task: labels by name and origin, test samples by key, contents and an audit's copies.

    Runs that the encoder started from count as its own pretraining. Where one of them, or a training store, is out of
    reach, the mark is `unknown` unless labels that are on record already say more.

    Args:
        encoder: To be marked.
        store: That the task's labels are drawn from.
        data: The task. Its test samples are looked up one by one: with folds, or where a value of a column is held out,
            they may be of split=train.
        test_store: That it is tested on, where that is another store.
        leak: What label pool and test share, in words, where that was accepted.
        seen: What its training stores share with the test, where that is known; else it is asked here.
    """
    tested = store if test_store is None else test_store
    cards, complete = ancestry(encoder.card)
    if seen is None:
        seen = what_was_seen(encoder.card, (tested, store), Side(tested, data.test_samples, "test"))
    derived: dict[str, Sequence[str]] = {**tested.derived_from(), **store.derived_from()}
    labels: dict[str, int] = {}
    for card in cards:
        derived = {**_derived_from(card), **derived}
        for name, columns, count in _labels_of(card, data.task.label_columns):
            labels[name] = max(count, labels.get(name, 0))
            # A question stands for its answers: it has their origins, and they its.
            derived[name] = tuple({*derived.get(name, ()), *columns} - {name})
    foreign = encoder.foreign or not complete
    mark = what_pretraining_saw(
        labels, data.task.label_columns, derived, bool(any_seen(seen)), foreign=foreign,
        task_where=tuple(data.task.where),
    )
    if encoder.card.method == COLOUR_HISTOGRAM:
        mark = dataclasses.replace(mark, sentence="Nothing was seen by pretraining: it has no weights.")
    elif any(each.train is None for each in seen) and not foreign:
        mark = _unreachable(mark, seen)
    notes = {card.label_note.partition(":")[0] for card in cards if card.label_note} if mark.columns else set()
    said = [mark.sentence, *(f"They are {note}." for note in sorted(notes))]
    probes = dict.fromkeys(column for card in cards for column in card.probe_columns)
    probed = related(probes, (*data.task.label_columns, *data.task.where), derived)
    said += [f"Online probes told how well {', '.join(probed)} could be read off while it trained: no gradient came of "
             "them, but the run may have been chosen by them."] if probed else []
    trained = dict.fromkeys(card.leak for card in cards if card.leak)
    said += [f"{ACCEPTED}{', in pretraining too' if leak in trained else ''}: {leak}."] if leak else []
    said += [f"{ACCEPTED} in pretraining: {words}." for words in trained if words != leak]
    terms = dict.fromkeys(license_words(card.license) for card in cards)
    said += [f"{words[0].upper()}{words[1:]}." for words in terms if words]
    return dataclasses.replace(mark, sentence=" ".join(said), probed=bool(probed))


def _labels_of(card: ModelCard, task_columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(question or class column, its answer columns, labelled rows): the task's own columns are never hidden in one."""
    for name, count in (card.label_rows or dict.fromkeys(card.label_columns, 0)).items():
        columns = tuple(c for c in card.label_columns if c == name or c.startswith(f"{name}_"))
        for own in [column for column in task_columns if column in columns] or [name]:
            yield own, columns, count


def _derived_from(card: ModelCard) -> Mapping[str, Sequence[str]]:
    merged: dict[str, Sequence[str]] = {}
    for store in filter(None, map(reached, card.stores)):
        merged.update(store.derived_from())
    return merged


def _unreachable(mark: Mark, seen: Sequence[Seen]) -> Mark:
    gone = ", ".join(dict.fromkeys(each.path for each in seen if each.train is None))
    also = f"Whether test samples were seen is unknown: the training store {gone} is gone or has changed."
    if mark.level in ("own", "related"):
        return dataclasses.replace(mark, sentence=f"{mark.sentence} {also}")
    if mark.level == "transductive":
        return mark
    return dataclasses.replace(mark, level="unknown", sentence=also)
