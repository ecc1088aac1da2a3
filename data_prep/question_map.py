"""Which answers of a volunteers' project are which answers of a label schema, as YAML.

    schema: gz2                  # a name, or a file; --schema is the same
    workflow: 1234               # only votes of this workflow; needed where an export holds several
    tasks:
      T0:                        # the project's task
        question: smooth-or-featured
        answers:                 # the project's answer, as volunteers read it -> the schema's
          Smooth: smooth
          Features or disk: featured-or-disk
          Star or artifact: artifact
          I can't tell: null     # no vote
      T1: {question: bar}        # the project's answers are spelled as the schema's

Spelling is compared by letters and digits alone, so that `Features or Disk`, `**features or disk**` and
`features-or-disk` are one. Tasks that are not listed give no votes. YAML reads an unquoted yes, no or 1 as something
else than text: quote them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.layers import read_yaml
from sciencessl.spec import LabelSchema, Question

_KEYS = ("schema", "workflow", "tasks")
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
"""A picture in front of an answer, as Markdown."""


@dataclass(frozen=True)
class Task:
    """One task of a project.

    Attributes:
        question: That it asks.
        columns: `spelling` of an answer -> column of votes; None for no vote.
        answers: The answers as the file, or else the schema, writes them.
    """

    question: Question
    columns: Mapping[str, str | None]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class QuestionMap:
    """A project in terms of a schema.

    Attributes:
        workflow: Number of the workflow as text, or empty for the only one.
        tasks: Name of a task -> what it asks.
    """

    workflow: str
    tasks: Mapping[str, Task]

    @property
    def questions(self) -> tuple[Question, ...]:
        """That any task asks, each once."""
        return tuple(dict.fromkeys(task.question for task in self.tasks.values()))


def spelling(text: str) -> str:
    """An answer as it is compared.

    >>> spelling("![a disk](https://x.org/disk.png) **Features or Disk?**")
    'featuresordisk'
    """
    return re.sub(r"[\W_]+", "", _PICTURE.sub("", text).casefold())


def named_schema(path: Path) -> str:
    """The `schema` of a map; empty when it names none.

    Raises:
        ConfigError: As `read_question_map`.
    """
    return _text(_entries(path).get("schema", ""), f"{path}, schema")


def read_question_map(path: Path, schema: LabelSchema) -> QuestionMap:
    """Read a map in the format above.

    Args:
        path: A YAML file.
        schema: Whose answers it names.

    Raises:
        ConfigError: For a missing or unreadable file, an unknown key, question or answer (with the closest known one),
            or two answers of a task that are spelled alike; names file and task.
    """
    entries = _entries(path)
    tasks = entries.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        example = f"tasks: {{T0: {{question: {schema.questions[0].name}}}}}"
        raise ConfigError(f"{path}: expected `tasks`, such as `{example}`, got {tasks!r}.")
    workflow = str(entries.get("workflow", "") or "")
    return QuestionMap(workflow, {str(name): _task(value, schema, f"{path}, task {name}") for name, value in
                                  tasks.items()})


def _entries(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ConfigError(f"--questions {path}: there is no such file. It maps a project's tasks and answers to those "
                          "of a label schema; docs/how-to/volunteers.md shows one.")
    values = read_yaml(path)
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"{path}: no key {key!r}.{did_you_mean(str(key), _KEYS)} Keys: {', '.join(_KEYS)}.")
    return values


def _task(value: Any, schema: LabelSchema, where: str) -> Task:
    if not isinstance(value, dict) or "question" not in value or set(value) - {"question", "answers"}:
        raise ConfigError(f"{where}: expected `question` and perhaps `answers`, got {value!r}.")
    try:
        question = schema.question(_text(value["question"], f"{where}, question"))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    listed = value.get("answers", {answer: answer for answer in question.answers})
    if not isinstance(listed, dict) or not listed:
        raise ConfigError(f"{where}, answers: expected entries such as `Smooth: smooth`, got {listed!r}.")
    columns: dict[str, str | None] = {}
    for said, meant in listed.items():
        word = spelling(_text(said, f"{where}, answers"))
        if word in columns:
            raise ConfigError(f"{where}: answer {said!r} is spelled like another one by letters and digits; give one.")
        columns[word] = None if meant is None else _column(question, _text(meant, f"{where}, answer {said!r}"), where)
    return Task(question, columns, tuple(map(str, listed)))


def _column(question: Question, answer: str, where: str) -> str:
    if answer not in question.answers:
        raise ConfigError(f"{where}: question {question.name!r} has no answer {answer!r}."
                          f"{did_you_mean(answer, question.answers)} Answers: {', '.join(question.answers)}.")
    return f"{question.name}_{answer}"


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    raise ConfigError(f"{where}: got {value!r} where text is expected; YAML reads an unquoted yes, no or 1 as "
                      "something else, so write it in quotes.")
