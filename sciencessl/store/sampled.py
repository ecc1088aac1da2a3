"""How labelled samples were chosen: at random, or by a score, which a curve of random draws may not use.

A table of labels says so in a column `sampled_by`: `random`, or the name of the score, such as `bald`. Labels of tables
without the column count as drawn at random, as all labels did before anything chose them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from sciencessl.store.reader import Store
from sciencessl.store.sides import value_text
from sciencessl.store.tables import Table

SAMPLED_BY = "sampled_by"
"""Column that says how each labelled sample was chosen."""
RANDOM = "random"
"""Its value for a random draw."""
UNRECORDED = "nobody knows what"
"""What chose a sample whose `sampled_by` is empty, in a table that has the column."""


def chosen_by(store: Store, columns: Sequence[str], index: np.ndarray) -> np.ndarray:
    """What chose each sample, where it was not a random draw.

    Args:
        store: A store.
        columns: Label columns that are read; the table of each is asked, or else the rows.
        index: (n,) store indices.

    Returns:
        (n,) text as objects: empty for a random draw and where nothing is recorded of the table, else the word of the
        first of the columns' tables that names another.
    """
    known = store.columns()
    found = np.full(len(index), "", dtype=object)
    own = {SAMPLED_BY} & {*store.rows.column_names}
    for home in dict.fromkeys(known[column] for column in columns):
        table = None if home == "rows" else store.table(home)
        if table is not None and SAMPLED_BY in table.columns:
            values = table.aligned(SAMPLED_BY, store.ids)
        elif own:
            values = store.rows[SAMPLED_BY].to_numpy()
        else:
            continue
        words = np.array([_not_random(value) for value in values[index].tolist()], dtype=object)
        found = np.where(found == "", words, found)
    return found


def _not_random(value: object) -> str:
    word = value_text(value)
    return "" if word == RANDOM else word or UNRECORDED


def sampling_note(tables: Iterable[Table]) -> str:
    """How many rows of some tables of labels were chosen and not drawn at random, in words; empty where none was.

    >>> import pyarrow as pa
    >>> data = pa.table({"id": ["a", "b"], "class": ["x", "y"], "sampled_by": ["random", "bald"]})
    >>> sampling_note([Table("labels", data, None, {}, "", "")])
    'labels, 1 of 2 of samples that bald chose, not a random draw'
    """
    having = {table.digest: table.data[SAMPLED_BY].to_pylist() for table in tables if SAMPLED_BY in table.columns}
    words = [_not_random(value) for values in having.values() for value in values]
    counts = Counter(filter(None, words))
    if not counts:
        return ""
    who = " and ".join(sorted(counts))
    return f"labels, {counts.total():,} of {len(words):,} of samples that {who} chose, not a random draw"
