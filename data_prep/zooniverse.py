"""Exports of Zooniverse projects as votes: one row a classification, or reduced to counts.

`classifications.csv` of the Lab's data exports has a row for each classification, with `annotations`, `subject_data`
and `metadata` as JSON. `question_reducer_*.csv` of panoptes_aggregation has a row for each subject and task, with
counts in `data.ANSWER`; it knows subjects by Zooniverse's numbers alone, which the Lab's `subjects.csv` translates.

Rows that cannot be votes are refused with line and reason; the rest is counted. Source: the columns as
https://help.zooniverse.org/next-steps/data-exports describes them, and the two tools' output.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from sciencessl.data_prep.question_map import QuestionMap, Task, named_schema, read_question_map, spelling
from sciencessl.data_prep.zooniverse_rows import (
    SHOWN,
    Names,
    RefusedError,
    RefusedRow,
    export_rows,
    parsed,
    read_subjects,
)
from sciencessl.errors import ConfigError, DataError, did_you_mean
from sciencessl.spec import LabelSchema
from sciencessl.store.files import read_file
from sciencessl.store.format import digest
from sciencessl.store.sampled import RANDOM, SAMPLED_BY

CLASSIFICATIONS = ("workflow_id", "annotations", "subject_data")
REDUCTIONS = ("subject_id", "task")
COUNT = "data."
SHOWN_CHARACTERS = 80


@dataclass
class Votes:
    """What was read of an export.

    Attributes:
        questions: Map of the project.
        counts: Sample -> column -> votes.
        sampled_by: Sample -> how it was chosen, where the export says.
        classifications: Sample -> classifications that were counted.
        refused: Rows that give no vote.
        people: Who gave them.
        pairs: Of people and samples.
        repeated: Classifications of a sample that its volunteer had classified before: the first one counts.
        other_workflows: Rows of workflows that the map does not ask for.
        other_tasks: Task that the map does not list -> annotations.
    """

    questions: QuestionMap
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    sampled_by: dict[str, str] = field(default_factory=dict)
    classifications: Counter[str] = field(default_factory=Counter)
    refused: list[RefusedRow] = field(default_factory=list)
    people: set[str] = field(default_factory=set)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    repeated: int = 0
    other_workflows: int = 0
    other_tasks: Counter[str] = field(default_factory=Counter)

    def table(self) -> pa.Table:
        """`id`, whole questions of counts, `sampled_by` where any sample has it, and `classifications` where known."""
        names = list(self.counts)
        columns = [column for question in self.questions.questions for column in question.columns]
        made: dict[str, Any] = {"id": pa.array(names, pa.string())}
        made |= {column: pa.array([float(self.counts[name][column]) for name in names], pa.float32())
                 for column in columns}
        if self.sampled_by:
            made[SAMPLED_BY] = pa.array([self.sampled_by.get(name) for name in names], pa.string())
        if self.classifications:
            made["classifications"] = pa.array([self.classifications[name] for name in names], pa.int64())
        return pa.table(made)


@dataclass(frozen=True)
class VoteTable:
    """Votes as they will lie beside the pixels.

    Attributes:
        data: As `Votes.table`.
        schema: Of the counts.
        note: Where they come from.
        said: Sentences on what was counted.
        refused: Rows that give no vote.
    """

    data: pa.Table
    schema: LabelSchema
    note: str
    said: tuple[str, ...]
    refused: tuple[RefusedRow, ...]


def read_vote_table(
    path: Path, questions: Path, load_schema: Callable[[str], LabelSchema], known: Sequence[str], schema: str = "",
    id: str = "", subjects: str = "",
) -> VoteTable:
    """Read an export by a file that maps its tasks and answers, as `question_map` describes it.

    Args:
        path: The export.
        questions: The map.
        load_schema: Name or file of a schema -> the schema.
        known: Ids of the store.
        schema: Label schema; empty takes the one that the map names.
        id: As `read_export`.
        subjects: As there.

    Raises:
        ConfigError, DataError: As `read_question_map` and `read_export`; and when neither names a schema.
    """
    name = schema or named_schema(questions)
    if not name:
        raise ConfigError(f"{questions} names no label schema; write `schema: NAME` into it, or pass --schema.")
    loaded = load_schema(name)
    votes = read_export(path, read_question_map(questions, loaded), known, id, subjects)
    return VoteTable(votes.table(), loaded, _note(path, votes), _said(votes), tuple(votes.refused))


def read_export(path: Path, questions: QuestionMap, known: Sequence[str], id: str = "", subjects: str = "") -> Votes:
    """Read an export of classifications, or of reductions.

    Of classifications these are refused: JSON that is none, gold-standard rows, subjects that were retired already or
    seen before when they were shown, rows without one subject, several answers to one question, and rows of another
    number of cells, such as the last one of a file that was cut. Of a volunteer's classifications of one sample the
    first counts; a volunteer is an account, or else a browser session, or else a hashed address.

    Args:
        path: The CSV.
        questions: What tasks and answers mean.
        known: Ids of the store.
        id: Metadata column that names the samples; empty looks for one that does.
        subjects: The project's `subjects.csv`, for exports without metadata; empty for none.

    Raises:
        ConfigError: For a file or column that does not exist, or several workflows of which the map names none.
        DataError: For an empty file, other columns, an answer that the map does not have (with line and the closest
            known one), or when no row names a sample of the store.
    """
    if not path.is_file():
        raise ConfigError(f"export {str(path)!r} does not exist; expected a .csv file of Zooniverse's data exports.")
    votes = Votes(questions)
    rows = export_rows(path, votes.refused)
    header = next(rows, (0, {}))[1]
    names = Names(known, id, read_subjects(Path(subjects)) if subjects else {})
    if {*CLASSIFICATIONS} <= {*header}:
        _check_workflows(path, questions)
        for line, row in rows:
            _classification(path, line, row, names, votes)
    elif {*REDUCTIONS} <= {*header} and any(name.startswith(COUNT) for name in header):
        _reductions(path, rows, names, votes)
    else:
        raise DataError(
            f"export {path} has the columns {', '.join(header) or '(none: the file is empty)'}; expected "
            f"{', '.join(CLASSIFICATIONS)} of classifications, or {', '.join(REDUCTIONS)} and {COUNT}ANSWER of "
            "reductions."
        )
    _check_found(path, votes, names)
    return votes


def _check_workflows(path: Path, questions: QuestionMap) -> None:
    found = Counter(row["workflow_id"] for _, row in islice(export_rows(path, []), 1, None))
    if questions.workflow and questions.workflow not in found and found:
        raise ConfigError(f"export {path} has no workflow {questions.workflow}, which the map of questions names."
                          f"{did_you_mean(questions.workflow, found)} Workflows: {', '.join(sorted(found))}.")
    if not questions.workflow and len(found) > 1:
        several = ", ".join(f"{name} ({count:,} rows)" for name, count in sorted(found.items()))
        raise ConfigError(f"export {path} holds several workflows, whose tasks are named alike: {several}. Write "
                          "`workflow: NUMBER` into the map of questions.")


def _classification(path: Path, line: int, row: Mapping[str, str], names: Names, votes: Votes) -> None:
    if votes.questions.workflow and row["workflow_id"] != votes.questions.workflow:
        votes.other_workflows += 1
        return
    try:
        shown = parsed(row, "metadata", dict) if row.get("metadata") else {}
        annotations, subject = parsed(row, "annotations", list), parsed(row, "subject_data", dict)
        _check_shown(row, shown)
        if len(subject) != 1 or not isinstance(next(iter(subject.values())), dict):
            raise RefusedError("no-subject", f"subject_data has {len(subject)} subjects, expected one with metadata")
        ((number, metadata),) = subject.items()
        sample, plain = names.sample(number, metadata)
        answers = list(_answers(path, line, annotations, votes))
    except RefusedError as refused:
        votes.refused.append(RefusedRow(line, *refused.args))
        return
    person = _person(row, shown, line)
    if (person, sample) in votes.pairs:
        votes.repeated += 1
        return
    votes.people.add(person)
    votes.pairs.add((person, sample))
    votes.counts.setdefault(sample, Counter()).update(answers)
    votes.classifications[sample] += 1
    _remember(sample, plain, votes)


def _check_shown(row: Mapping[str, str], shown: Mapping[str, Any]) -> None:
    if row.get("gold_standard", "").strip().lower() in ("true", "t", "1"):
        raise RefusedError("gold-standard", "a classification by an expert, to compare volunteers with")
    state = shown.get("subject_selection_state")
    state = state if isinstance(state, dict) else {}
    if state.get("retired") is True:
        raise RefusedError("after-retirement", "the subject had enough classifications when it was shown")
    if state.get("already_seen") is True or shown.get("seen_before") is True:
        raise RefusedError("seen-before", "the volunteer had seen the subject before")


def _person(row: Mapping[str, str], shown: Mapping[str, Any], line: int) -> str:
    """Who classified; where nothing tells, every row is somebody else's."""
    for kind, value in (("account", row.get("user_id")), ("session", shown.get("session")),
                        ("address", row.get("user_ip") or row.get("user_name"))):
        if value:
            return f"{kind} {value}"
    return f"line {line}"


def _answers(path: Path, line: int, annotations: Sequence[Any], votes: Votes) -> Iterator[str]:
    """Columns that get a vote, one a question at most; of a task that was answered again the last answer counts."""
    given: dict[str, Any] = {}
    for part in _flat(annotations):
        if part["task"] in votes.questions.tasks:
            given[part["task"]] = part.get("value")
        else:
            votes.other_tasks[str(part["task"])] += 1
    for name, value in given.items():
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value is None or value in ("", []):
            continue  # skipped by the volunteer
        if isinstance(value, list):
            raise RefusedError("several-answers", f"task {name}: {len(value)} answers, where a vote is one")
        if not isinstance(value, str):
            said = json.dumps(value)[:SHOWN_CHARACTERS]
            raise RefusedError("no-answer", f"task {name}: the value is {said}, expected the answer's text")
        column = _column(votes.questions.tasks[name], value, f"export {path}, line {line}, task {name}")
        if column:
            yield column


def _flat(annotations: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Annotations of tasks, those inside combined tasks too."""
    for part in annotations:
        if not isinstance(part, dict) or not isinstance(part.get("task"), str):
            said = json.dumps(part)[:SHOWN_CHARACTERS]
            raise RefusedError("bad-json", f"annotations hold {said}, expected a task and its value")
        value = part.get("value")
        inner = value if isinstance(value, list) and all(isinstance(v, dict) and "task" in v for v in value) else []
        yield from _flat(inner) if inner else [part]


def _column(task: Task, answer: str, where: str) -> str | None:
    word = spelling(answer)
    if word not in task.columns:
        close = did_you_mean(answer, task.answers)
        raise DataError(
            f"{where}: the map of questions has no answer {answer!r} for question {task.question.name!r}.{close} It "
            f"has {', '.join(map(repr, task.answers))}. Add it, with null where it is to give no vote."
        )
    return task.columns[word]


def _remember(sample: str, plain: Mapping[str, str], votes: Votes) -> None:
    # A sample of a random draw stays one, also where a score chose it too.
    if SAMPLED_BY in plain and votes.sampled_by.get(sample) != RANDOM:
        votes.sampled_by[sample] = plain[SAMPLED_BY]


def _reductions(path: Path, rows: Iterator[tuple[int, dict[str, str]]], names: Names, votes: Votes) -> None:
    done: set[tuple[str, str]] = set()
    for line, row in rows:
        task = votes.questions.tasks.get(row["task"])
        if votes.questions.workflow and row.get("workflow_id", votes.questions.workflow) != votes.questions.workflow:
            votes.other_workflows += 1
            continue
        if task is None:
            votes.other_tasks[row["task"]] += 1
            continue
        try:
            number = row["subject_id"]
            sample, plain = names.sample(number, {} if names.subjects else {"subject_id": number})
            if (sample, row["task"]) in done:
                raise RefusedError("repeated", f"task {row['task']} of subject {number} came before")
            counts = dict(_counts(path, line, row, task))
        except RefusedError as refused:
            votes.refused.append(RefusedRow(line, *refused.args))
            continue
        done.add((sample, row["task"]))
        votes.counts.setdefault(sample, Counter()).update(counts)
        _remember(sample, plain, votes)


def _counts(path: Path, line: int, row: Mapping[str, str], task: Task) -> Iterator[tuple[str, float]]:
    for name, text in row.items():
        if not name.startswith(COUNT) or not text.strip() or name == f"{COUNT}aggregation_version":
            continue
        try:
            count = float(text)
        except ValueError:
            count = -1.0
        if not 0 <= count < float("inf"):
            raise RefusedError("no-count", f"{name} is {text!r}, expected votes")
        column = _column(task, name.removeprefix(COUNT), f"export {path}, line {line}") if count else None
        if column:
            yield column, count


def _check_found(path: Path, votes: Votes, names: Names) -> None:
    if any(name in names.known for name in votes.counts):
        return
    refused = ", ".join(f"{count:,} {reason}" for reason, count in
                        Counter(row.reason for row in votes.refused).most_common())
    if not votes.counts:
        raise DataError(f"export {path} has no row that gives a vote{f' (refused: {refused})' if refused else ''}.")
    columns = ", ".join(name for name, _ in names.seen.most_common())
    raise DataError(
        f"export {path}: none of the {len(votes.counts):,} subjects is in the store. They are called "
        f"{', '.join(map(repr, names.given))}; the store has {', '.join(map(repr, sorted(names.known)[:SHOWN]))}. Name "
        f"the metadata that holds the store's ids with --id (there are: {columns}), or give the project's subjects.csv "
        "with --subjects."
    )


def _said(votes: Votes) -> tuple[str, ...]:
    """What was counted, a sentence each."""
    lines = []
    if votes.classifications:
        lines.append(f"{votes.classifications.total():,} classifications of {len(votes.counts):,} subjects by "
                     f"{len(votes.people):,} volunteers")
    for question in votes.questions.questions:
        asked = [sum(counts[column] for column in question.columns) for counts in votes.counts.values()]
        lines.append(f"{question.name}: {sum(asked):,.0f} votes on {sum(n > 0 for n in asked):,} subjects")
    if votes.repeated:
        lines.append(f"{votes.repeated:,} classifications of a subject that the volunteer had classified before are "
                     "left out")
    if votes.other_workflows:
        lines.append(f"{votes.other_workflows:,} rows of other workflows are left out")
    if votes.other_tasks:
        listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(votes.other_tasks.items()))
        lines.append(f"tasks that the map of questions does not list: {listed}")
    if not votes.sampled_by:
        lines.append("the export does not say how its subjects were sampled (no metadata `#sampled_by`): they count as "
                     "drawn at random")
    return tuple(lines)


def _note(path: Path, votes: Votes) -> str:
    counted = f", {votes.classifications.total():,} classifications by {len(votes.people):,} volunteers" \
        if votes.people else ""
    return f"votes of volunteers: Zooniverse export {path.name} ({digest(read_file(path))[:12]}){counted}"
