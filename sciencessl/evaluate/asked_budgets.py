"""Which label budgets a transfer has: those asked for, or those of the task that the pool can fill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciencessl.errors import ConfigError
from sciencessl.evaluate.subsets import Budget, parse_budget
from sciencessl.evaluate.task_labels import OBJECT
from sciencessl.evaluate.tasks import TaskData
from sciencessl.store.reader import Store


def asked_budgets(store: Store, data: TaskData, labels: Sequence[str]) -> tuple[Budget, ...]:
    """The budgets asked for; of the task's own, those that the pool can fill.

    Args:
        store: That labels are drawn from.
        data: The task with its smallest pool.
        labels: Spellings of budgets; empty for the task's own.

    Raises:
        ConfigError: For a budget that the pool cannot fill, or whose unit is not the task's.
    """
    budgets = tuple(dict.fromkeys(parse_budget(text) for text in labels or data.task.budgets))
    for budget in budgets:
        _check_unit(store, data, budget)
    lacks = {budget: reason for budget in budgets if (reason := _lacks(data, budget))}
    if labels and lacks:
        budget, reason = next(iter(lacks.items()))
        raise ConfigError(f"label budget '{budget}' of task {data.task.name!r}: {reason}. Ask for fewer, or for 'all'.")
    usable = tuple(budget for budget in budgets if budget not in lacks)
    return usable if usable and not lacks else tuple(dict.fromkeys((*usable, Budget("all"))))


def trained_budgets(budgets: tuple[Budget, ...], labels: Sequence[str]) -> tuple[Budget, ...]:
    """The budgets of arms that train a network, by default all.

    Raises:
        ConfigError: For one that is not among `budgets`.
    """
    wanted = tuple(dict.fromkeys(parse_budget(text) for text in labels))
    strange = [str(budget) for budget in wanted if budget not in budgets]
    if strange:
        raise ConfigError(
            f"budgets of the arms that train a network: {', '.join(strange)} are not among the label budgets "
            f"{', '.join(map(str, budgets))}, so they could not be compared with the other arms; add them to --labels."
        )
    return wanted or budgets


def _lacks(data: TaskData, budget: Budget) -> str:
    """Why the pool cannot fill a budget; empty where it can."""
    pool, units = np.bincount(data.train_labels), len(set(data.train_units))
    if budget.kind == "total" and budget.amount > pool.sum():
        return f"split=train holds only {pool.sum()} labelled samples"
    if budget.kind == "per_class" and budget.amount > pool.max():
        return f"no class of split=train has so many; the largest holds {pool.max()}"
    if budget.kind == "units" and budget.amount > units:
        return f"split=train holds only {units} units ({data.task.unit})"
    return ""


def _check_unit(store: Store, data: TaskData, budget: Budget) -> None:
    if budget.kind != "units":
        return
    unit = data.task.unit
    known = {"unit", unit, *(("sample", "galaxy", "image") if unit == OBJECT else ())}
    if unit == "group":
        known |= _names_of_group(store)
    word = budget.unit.lower().strip()
    if word not in known | {f"{name}s" for name in known}:
        raise ConfigError(
            f"label budget '{budget}' counts {budget.unit}, but the unit of task {data.task.name!r} on {store.path} is "
            f"{unit!r}; write '{budget.amount:g} units'."
        )


def _names_of_group(store: Store) -> set[str]:
    """Row columns that hold the same values as `group`: the name it had in the catalogue is one of them."""
    group = store.column("group").tolist()
    rows = [name for name, where in store.columns().items() if where == "rows" and name not in ("id", "split")]
    return {name.lower() for name in rows if store.column(name).tolist() == group}
