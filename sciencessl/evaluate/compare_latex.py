"""A comparison as LaTeX tables, one a task, with what a reader must know below each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sciencessl.evaluate.compare import Comparison, Line, TaskTable
from sciencessl.evaluate.compare_output import (
    cost_sentences,
    difference_words,
    metric_words,
    name_words,
    not_resolved,
    resolution_sentence,
    score_words,
    sentences,
    test_words,
)
from sciencessl.evaluate.results import NEVER_LEARNED

_ESCAPES = str.maketrans({
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    **{sign: f"{{{sign}}}" for sign in "[*"},  # after the end of a row they would be arguments of that
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}",
})  # fmt: skip
_LIGATURES = re.compile(r"([-',])(?=\1)")
"""Signs that LaTeX makes another one of where two stand together."""

_PM = r" \pm "


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it stands: signs of its own are escaped, white space is one blank.

    >>> escape("a_b 50%")
    'a\\_b 50\\%'
    """
    return _LIGATURES.sub(r"\1{}", " ".join(text.split()).translate(_ESCAPES))


def latex(comparison: Comparison) -> str:
    """A `table` a task, of `tabular` and the rules of booktabs. Nothing is bold: no row of it says that it is best."""
    head = "% Written by `sciencessl compare`. It needs \\usepackage{booktabs} and nothing else.\n"
    return head + "\n".join(_table(task, number) for number, task in enumerate(comparison.tasks, 1))


def _table(task: TaskTable, number: int) -> str:
    budgets = task.budgets
    header = " & ".join(["Encoder", "Arm", *map(escape, budgets)])
    caption = escape(f"Task {task.task}: {metric_words(task)}, by label budget; {test_words(task)}.")
    return "\n".join([
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:compare-{number}}}",
        rf"\begin{{tabular}}{{ll{'c' * len(budgets)}}}",
        r"\toprule",
        rf"{header} \\",
        r"\midrule",
        *(rf"{row} \\" for row in _rows(task)),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\medskip",
        r"\begin{minipage}{\linewidth}",
        r"\footnotesize",
        *(rf"{note}\par" for note in _notes(task)),
        r"\end{minipage}",
        r"\end{table}",
        "",
    ])


def _rows(task: TaskTable) -> Iterator[str]:
    marks = _marks(task)
    for (encoder, arm), lines in task.curves.items():
        name = escape(name_words(next(iter(lines.values())).row))
        if arm not in NEVER_LEARNED and (numbers := [str(marks[sentence]) for sentence in task.marks[encoder]]):
            name += rf"\textsuperscript{{{','.join(numbers)}}}"
        yield " & ".join([name, escape(arm), *(_score(task, lines.get(budget)) for budget in task.budgets)])
        if task.shows_primary:
            for baseline in dict.fromkeys(line.row.baseline for line in lines.values()):
                yield from _differences(task, lines, baseline)


def _differences(task: TaskTable, lines: Mapping[str, Line], baseline: str) -> Iterator[str]:
    mine = {budget: line.row for budget, line in lines.items()
            if line.row.baseline == baseline and line.row.difference is not None}
    if mine:
        cells = [f"{_math(difference_words(mine[budget], _PM))} {not_resolved(mine[budget])}".strip()
                 if budget in mine else "" for budget in task.budgets]
        yield " & ".join([rf"\quad minus {escape(baseline)}", "", *cells])


def _score(task: TaskTable, line: Line | None) -> str:
    return _math("" if line is None else score_words(task, line.row, _PM)) or "--"


def _math(words: str) -> str:
    return f"${words}$" if words else ""


def _marks(task: TaskTable) -> dict[str, int]:
    """Sentence on what pretraining saw -> the number of its footnote."""
    every = dict.fromkeys(sentence for found in task.marks.values() for sentence in found)
    return {sentence: number for number, sentence in enumerate(every, 1)}


def _notes(task: TaskTable) -> Iterator[str]:
    for sentence in (resolution_sentence(task), *sentences(task)):
        yield escape(f"{sentence[0].upper()}{sentence[1:]}.")
    if costs := cost_sentences(task):
        yield escape(f"Pretraining took: {'; '.join(costs)}.")
    for sentence, number in _marks(task).items():
        yield rf"\textsuperscript{{{number}}}{escape(sentence)}"
    yield from map(escape, task.notes)
