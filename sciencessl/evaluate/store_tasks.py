"""Which tasks a store has labels for: those of its domain, and two for each question that its volunteers answered.

    votes:QUESTION      kind `counts`: how the votes fall on the answers
    class:QUESTION      kind `class`: the answer that has more than half of the votes
"""

from __future__ import annotations

from collections.abc import Sequence

from sciencessl.errors import ConfigError, StoreError
from sciencessl.evaluate.task_files import SUFFIXES
from sciencessl.evaluate.tasks import find_task, require_columns
from sciencessl.registry import load_domain
from sciencessl.spec import LabelSchema, Question, TransferTask
from sciencessl.store.reader import Store

VOTES, CLASS = "votes", "class"
BUDGETS = ("50", "250", "750", "all")


def store_tasks(store: Store) -> tuple[TransferTask, ...]:
    """Tasks whose columns a store has: those of its domain, then those of the questions in its tables of votes."""
    known = store.columns()
    own = [task for task in load_domain(store.header.domain).tasks
           if all(column in known for column in task.needs)]
    asked = [_of_question(kind, question) for question in _questions(store) for kind in (VOTES, CLASS)]
    return (*own, *asked)


def find_store_task(store: Store, name: str) -> TransferTask:
    """The task of that name, or of that YAML file, on a store; the only one when no name is given.

    Args:
        store: That labels are drawn from.
        name: Of a task of the domain; `votes:QUESTION` or `class:QUESTION`, the question with its campaign or, where
            only one fits, without; or a file. A domain's task goes before others of its name.

    Raises:
        ConfigError: When there is none of that name, several to choose from, or something is wrong with the file.
        StoreError: When the store lacks a column of a domain's task; notes say which tasks it has columns for.
    """
    kind, colon, question = name.partition(":")
    if colon and kind in (VOTES, CLASS) and not name.endswith(SUFFIXES):
        return _of_question(kind, _question(store, name, question))
    offered = store_tasks(store)
    own = [task for task in load_domain(store.header.domain).tasks if task.name == name]
    if name and own and own[0] not in offered:
        try:
            require_columns(store, own[0])
        except StoreError as error:
            error.add_note(f"Tasks that the store has columns for: {_listed(offered)}.")
            raise
    if name.endswith(SUFFIXES) or offered:
        return find_task(offered, name)
    raise ConfigError(f"{store.path} has columns for none of the tasks of its domain, and no votes. Add labels with "
                      "`sciencessl store label`, or describe a task in a FILE.yaml.")


def _of_question(kind: str, question: Question) -> TransferTask:
    name = f"{kind}:{question.name}"
    if kind == VOTES:
        return TransferTask(name, columns=question.columns, kind="counts", budgets=BUDGETS,
                            description=f"votes on {question.name}")
    classes = dict(zip(question.columns, question.answers, strict=True))
    return TransferTask(name, columns=question.columns, classes=classes, budgets=BUDGETS,
                        description=f"the answer to {question.name} with more than half of 10 votes or more")


def _questions(store: Store) -> tuple[Question, ...]:
    """Questions of which a store has every answer, each a root."""
    known, found = store.columns(), dict[str, Question]()
    for table in map(store.table, store.tables):
        for question in table.schema.questions if table.schema else ():
            if all(column in known for column in question.columns):
                found[question.name] = Question(question.name, question.answers)
    return tuple(found.values())


def _question(store: Store, name: str, question: str) -> Question:
    questions = _questions(store)
    if not questions:
        raise ConfigError(f"--task {name}: {store.path} has no votes on any question. Tasks that it has columns for: "
                          f"{_listed(store_tasks(store))}. Votes are added by `sciencessl store label --schema NAME`.")
    try:
        return LabelSchema("votes", questions).question(question)
    except ConfigError as error:
        raise ConfigError(f"--task {name}, {store.path}: {error}") from None


def _listed(tasks: Sequence[TransferTask]) -> str:
    return ", ".join(task.name for task in tasks) or "none"
