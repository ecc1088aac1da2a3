"""Tasks that are tested elsewhere: on one site, scanner or survey that the pool never saw, or on another store."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sciencessl.errors import ConfigError
from sciencessl.evaluate.tasks import TaskData, load_sides
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side

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
