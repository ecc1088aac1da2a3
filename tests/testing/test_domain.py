"""Every registered domain passes the kit, and the kit sees what it is there to see."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sciencessl import registry
from sciencessl.samples import Sample
from sciencessl.spec import ColumnSpec, DomainSpec, FieldSpec, TransferTask, View, ViewRandom
from sciencessl.testing import ConformanceError, check_domain


@pytest.mark.parametrize("name", [entry.name for entry in registry.domains()])
def test_registered_domains_conform(name: str, tmp_path: Path) -> None:
    checked = check_domain(registry.load_domain(name), folder=tmp_path / "work")
    assert checked == (
        "fields", "columns", "schemas", "options", "functions", "tasks", "preset", "synthetic", "prepared", "stored",
        "views", "shown", "batches", "labels", "answered",
    )


@dataclasses.dataclass
class Loose:
    """Settings that can change."""


Change = Callable[[DomainSpec], dict[str, Any]]


def _wrap(change: Callable[[View, View], tuple[View, View]]) -> Change:
    def changed(spec: DomainSpec) -> dict[str, Any]:
        inner = spec.views
        name = f"_views_{change.__name__}"

        def views(settings: Any) -> tuple[View, View]:
            return change(*inner(settings))

        # Where pickle looks for it: this file has no name that can be imported.
        module = sys.modules.setdefault("kit_views", ModuleType("kit_views"))
        views.__module__, views.__qualname__ = "kit_views", name
        setattr(module, name, views)
        return {"views": views}

    return changed


def _single(train: View, evaluate: View) -> tuple[View, View]:
    return (lambda sample, random: train(sample, random)[:1]), evaluate


def _unseeded(train: View, evaluate: View) -> tuple[View, View]:
    own = np.random.default_rng(0)
    return (lambda sample, random: train(sample, lambda v: own)), evaluate


def _frozen(train: View, evaluate: View) -> tuple[View, View]:
    return (lambda sample, random: train(sample, lambda v: np.random.default_rng(v))), evaluate


def _random_evaluation(train: View, evaluate: View) -> tuple[View, View]:
    return train, lambda sample, random: train(sample, random)[:1]


def _in_place(train: View, evaluate: View) -> tuple[View, View]:
    def spoil(sample: Sample, random: ViewRandom) -> list[Sample]:
        found = train(sample, random)
        sample.fields["image"][:] = 0
        return found

    return spoil, evaluate


def _sized(train: View, evaluate: View) -> tuple[View, View]:
    return train, dataclasses.replace(evaluate, least_px={"picture": 64})  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"name": "Web Photos"}, "lower-case"),
        (lambda s: {"api": 0}, "this sciencessl speaks"),
        (lambda s: {"fields": {"image": FieldSpec("bytes", ("r", "g"))}}, "1 or 3 channels"),
        (lambda s: {"fields": {"image": FieldSpec("array", ("r",))}}, "a shape belongs to `array` fields"),
        (lambda s: {"group": "patient"}, "group 'patient' is none of the columns"),
        (lambda s: {"identity": ("patient",)}, "identity names"),
        (lambda s: {"columns": (ColumnSpec("x", "complicated"),)}, "is no NumPy dtype"),
        (lambda s: {"train_options": Loose}, "train_options is no frozen dataclass"),
        (lambda s: {"decode": "sciencessl.data.decode:decod"}, "decode: cannot load"),
        (lambda s: {"places": "sciencessl.store.sides:near"}, "places: cannot load"),
        (lambda s: {"sources": {}}, "sources is empty"),
        (lambda s: {"views": lambda settings: None}, "cannot be sent to loader workers"),
        (lambda s: {"tasks": (TransferTask("t", "class", budgets=("many",)),)}, r"budgets \['many'\]"),
        (lambda s: {"tasks": (TransferTask("t", "class", unit="patient"),)}, "unit 'patient'"),
        (lambda s: {"tasks": (TransferTask("t", "kind"),)}, r"task 't' reads \['kind'\]"),
        (lambda s: {"tasks": (TransferTask("t", "class", classes={"x": "y"}),)}, "needs two"),
        (lambda s: {"tasks": (TransferTask("t", kind="counts", columns=("a", "b")),)}, r"task 't' reads \['a', 'b'\]"),
        (lambda s: {"display": lambda sample: np.zeros((4, 4))}, "display gives float64"),
        (_wrap(_single), "methods compare two"),
        (_wrap(_unseeded), "differs from equal generators"),
        (_wrap(_frozen), "same from different generators"),
        (_wrap(_random_evaluation), "the evaluation view is random"),
        (_wrap(_in_place), "changes the sample"),
        (_wrap(_sized), "least_px of a view is .'picture': 64., expected field -> pixels"),
    ],
)
def test_what_breaks_the_contract_is_named(change: Change, message: str) -> None:
    spec = registry.load_domain("web")
    with pytest.raises(ConformanceError, match=message):
        check_domain(dataclasses.replace(spec, **change(spec)), samples=24)


def test_synthetic_data_that_is_not_a_function_of_its_generator_is_named() -> None:
    spec, drawn = registry.load_domain("web"), np.random.default_rng()

    def synthetic(folder: Path, rng: np.random.Generator, n: int) -> Path:
        return spec.synthetic(folder, drawn, n)

    with pytest.raises(ConformanceError, match="differently from equal generators"):
        check_domain(dataclasses.replace(spec, synthetic=synthetic), samples=12)
