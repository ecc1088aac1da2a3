"""What pretraining saw of a task: one mark for every table, plot and report.

The rule, first match first:

- `own`: the run learned from a column of the task's own labels, whatever else it, or foreign weights that it started
  from, may have seen.
- `unknown`: the encoder is foreign (off-the-shelf weights), so nobody can tell.
- `related`: a column that the run learned from, or that chose its training samples, has an origin in common with a
  column of the task or with a column that chooses the task's samples. The origins of a column are itself and all that
  `derived_from` leads to, transitively. So votes simulated from the task's classes are related to the task, a task on
  a column computed from those votes is related too, and so are two columns computed from one third. Labels that share
  no origin on record count as related as well, and the sentence says so: volunteers' votes and a class that was
  measured elsewhere tell of the same shape, and a record cannot show that two labels do not.
- `transductive`: no such labels, but test samples, or copies of them, were among the training samples, unlabelled.
- `none`: neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PROBED, LEAK = ", probed", ", leak"
Level = Literal["none", "transductive", "related", "own", "unknown"]


@dataclass(frozen=True)
class Mark:
    """What pretraining saw of a task.

    Attributes:
        level: The one word.
        sentence: For table foot, plot and report.
        columns: Columns behind `related` or `own`, sorted.
        transductive: Whether test samples were among the training samples, whatever `level` says.
        probed: Whether online probes read a column with an origin in common with the task's while the run trained. It
            did not learn from them, so `level` does not count them, but runs may have been chosen by them.
        leak: Whether it saw test samples in a way that is refused, and that was accepted.
    """

    level: Level
    sentence: str
    columns: tuple[str, ...] = ()
    transductive: bool = False
    probed: bool = False
    leak: bool = False

    @property
    def shown(self) -> str:
        """The word of a table: the level, whether the run was probed, and whether a leak was accepted."""
        return self.level + (PROBED if self.probed else "") + (LEAK if self.leak else "")


def origins(column: str, derived_from: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The column itself and every column that it derives from, transitively; circles are harmless."""
    found: set[str] = set()
    waiting = [column]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(derived_from.get(name, ()))
    return frozenset(found)


def what_pretraining_saw(
    run_label_columns: Mapping[str, int],
    task_columns: Sequence[str],
    derived_from: Mapping[str, Sequence[str]],
    train_keys_seen_test: bool,
    foreign: bool,
    run_selected_by: Sequence[str] = (),
    task_where: Sequence[str] = (),
) -> Mark:
    """Mark one run against one task, by the rule at the head of this module (design section 8).

    Args:
        run_label_columns: Column or question that the run learned from -> number of labelled training samples.
        task_columns: The task's label columns, one or several.
        derived_from: Column -> columns that it was computed from, of all tables of run and task.
        train_keys_seen_test: Whether any key of the test samples is among the run's training keys.
        foreign: Whether the weights come from outside, so that their training is not on record.
        run_selected_by: Label columns that chose the run's training samples (a population selected by a label).
        task_where: Columns that choose the task's samples.
    """
    also = " Test samples were among the training samples." if train_keys_seen_test else ""
    if foreign:
        also += " What the foreign weights that it started from saw is not on record."
    own = [column for column in task_columns if column in run_label_columns]
    chose = [column for column in task_columns if column in run_selected_by]
    if own:
        counted = ", ".join(_counted(column, run_label_columns) for column in own)
        text = f"The task's own labels were seen in pretraining: {counted}.{also}"
        return Mark("own", text, tuple(sorted(own)), train_keys_seen_test)
    if chose:
        text = f"The task's own labels chose the training samples: {', '.join(chose)}.{also}"
        return Mark("own", text, tuple(sorted(chose)), train_keys_seen_test)
    if foreign:
        return Mark("unknown", "Unknown: foreign weights, whose training data are not on record.", (),
                    train_keys_seen_test)
    linked = related(run_label_columns, (*task_columns, *task_where), derived_from)
    selecting = related(run_selected_by, (*task_columns, *task_where), derived_from)
    others = sorted({*run_label_columns} - {*linked})
    if linked or selecting or others:
        named = [_counted(name, run_label_columns) for name in linked]
        named += [f"{name} (chose the training samples)" for name in selecting]
        said = [f"Related labels were seen in pretraining: {', '.join(named)}."] if named else []
        if others:
            counted = ", ".join(_counted(name, run_label_columns) for name in others)
            said.append(f"Labels with no recorded link to the task were seen in pretraining: {counted}.")
        columns = tuple(sorted({*linked, *selecting, *others}))
        return Mark("related", " ".join(said) + also, columns, train_keys_seen_test)
    if train_keys_seen_test:
        return Mark("transductive", "Test samples were seen in pretraining, without labels.", (), True)
    return Mark("none", "Neither test samples nor related labels were seen in pretraining.")


def _counted(name: str, rows: Mapping[str, int]) -> str:
    return f"{name} ({rows[name]:,} labelled samples)"


def related(
    columns: Iterable[str], task_columns: Sequence[str], derived_from: Mapping[str, Sequence[str]]
) -> list[str]:
    """The columns that share an origin with any of the task's, sorted.

    Args:
        columns: To choose from.
        task_columns: The task's label columns, and those that choose its samples.
        derived_from: Column -> columns that it was computed from.
    """
    task = frozenset().union(*(origins(column, derived_from) for column in task_columns))
    return sorted(column for column in columns if origins(column, derived_from) & task)
