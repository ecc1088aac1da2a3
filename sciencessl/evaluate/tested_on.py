"""Tasks that are tested elsewhere: on one site, scanner or survey that the pool never saw, or on another store."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from sciencessl.errors import ConfigError, LeakError
from sciencessl.evaluate.tasks import TaskData, load_sides
from sciencessl.registry import load_domain
from sciencessl.spec import TransferTask
from sciencessl.store.audited import ACCEPT
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side, near_things, same_things

NAMED = 20
"""Values of a column that a message lists."""


def load_held_out(store: Store, task: TransferTask, column: str, value: str) -> TaskData:
    """The task tested on one value of a column (leave one site out).

    The test is every labelled sample with the value, of any split; the pool is what split=train has with other values.
    Samples without a value are in neither: they may belong to the one held out.

    Args:
        store: With the column.
        task: Of any kind that can be read.
        column: Such as `site`.
        value: As `value_text` spells it.

    Raises:
        StoreError: When the store has no such column.
        ConfigError: When no sample has the value; lists those that occur.
        And as `load_sides`. Ask `check_leak` too.
    """
    everything = Side.of_splits(store, "train", "val", "test")
    texts = everything.texts(column)
    held = (texts == value) & (texts != "")
    if not held.any():
        counts = Counter(texts.tolist())
        falling = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{name or 'missing'} ({n:,})" for name, n in falling]
        more = f" and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
        raise ConfigError(
            f"--test {column}={value}: no sample of {store.path} has it. Values of {column!r}: "
            f"{', '.join(named[:NAMED])}{more}."
        )
    train = Side.of_splits(store, "train")
    others = train.texts(column)
    pool = train.index[(others != value) & (others != "")]
    return load_sides(task, replace(train, index=pool, name=f"split=train without {column}={value}"),
                      replace(everything, index=everything.index[held], name=f"{column}={value}"))


def load_across(store: Store, task: TransferTask, other: Store) -> TaskData:
    """The task tested on every labelled sample of another store, whatever its split there.

    The pool is split=train of `store`, and so are the classes: samples of the other store that show another class are
    left out and counted in `dropped`. `test` holds indices into the other store. Ask `check_leak` too.

    Raises:
        As `load_sides`: both stores need the task's columns and its unit.
    """
    everywhere = Side.of_splits(other, "train", "val", "test")
    return load_sides(task, Side.of_splits(store, "train"), replace(everywhere, name="all samples"))


def check_leak(store: Store, data: TaskData, other: Store, *, accept: bool = False) -> str:
    """Refuse a test whose samples, or others of the same group, are in the label pool too.

    What makes two samples the same thing: `sciencessl.store.sides.same_things`, and `near_things` that are the same;
    groups are the bag and unit of the task, the recorded group and the domain's identity. Copies that were turned,
    resized or encoded again are for `sciencessl store audit` to find.

    Args:
        store: Of the pool.
        data: The task.
        other: Of the test samples; may be the same store.
        accept: Do not refuse.

    Returns:
        What is shared, in words; empty for nothing.

    Raises:
        LeakError: With how many test samples, by what, and examples.
    """
    pool, test = Side(store, data.pool_samples, "pool"), Side(other, data.test_samples, "test")
    own = [data.task.bag] if data.train_bags is not None else []
    groups = dict.fromkeys([*own, data.task.unit, "group", *load_domain(store.header.domain).identity])
    found = {name: match >= 0 for name, match in same_things(pool, test, tuple(groups))}
    near = {rule.by: rule for rule in near_things(pool, test) if rule.same}
    found |= {name: rule.match >= 0 for name, rule in near.items()}
    leaking = np.logical_or.reduce([*found.values(), np.zeros(len(test.index), dtype=bool)])
    if not leaking.any():
        return ""
    ids = test.texts("id")
    said = [f"{rows.sum():,} by {name} (such as {', '.join(ids[rows][:3])}"
            f"{', ' + near[name].words(int(np.argmax(rows))) if name in near else ''})"
            for name, rows in found.items() if rows.any()]
    same = store.digest == other.digest
    words = (f"{leaking.sum():,} of {len(leaking):,} test samples of {other.path} are the same thing as samples of the "
             f"label pool{'' if same else f' of {store.path}'}: {'; '.join(said)}")
    if accept:
        return words
    fix = "Prepare one store without them; where they only share a name, prepare one with ids and groups of its own."
    if same:
        fix = ("Prepare it with --group COLUMN, which keeps what belongs together in one split, or withdraw samples "
               "with `sciencessl store remove`.")
    raise LeakError(f"{words}. The test would leak. {fix} {ACCEPT}")
