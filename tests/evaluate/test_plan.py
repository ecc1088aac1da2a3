from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError, RunError, SciencesslError, StoreError
from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.plan import Item, Plan, Request, class_names, make_plan
from sciencessl.registry import load_domain
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.writer import create_store

DEFAULTS: dict[str, Any] = {
    "task": "morphology", "labels": ("12", "36", "all"), "arms": ("frozen",), "subsets": 2, "random_encoders": 1,
    "draw": "stratified", "finetune_labels": (), "finetune_subsets": 1, "training": Training(),
}


def _plan(run: Path, store: Store, **changes: Any) -> Any:
    return make_plan(Request((run,), store.path, Path("nowhere"), **{**DEFAULTS, **changes}))


def test_subsets_are_nested_and_all_is_drawn_once(survey: Store, run: Path) -> None:
    plan = _plan(run, survey)
    small, large, everything = plan.budgets
    assert [list(plan.seeds(budget)) for budget in plan.budgets] == [[0, 1], [0, 1], [0]]
    for drawn in plan.subsets:
        assert set(drawn[small].index) < set(drawn[large].index) < set(drawn[everything].index)
    assert set(plan.subsets[0][small].index) != set(plan.subsets[1][small].index)
    assert len(plan.largest()) == 96
    assert np.array_equal(plan.samples(), np.arange(144))


def test_equal_budgets_are_one(survey: Store, run: Path) -> None:
    assert [str(b) for b in _plan(run, survey, labels=("12", "12 in all", "12")).budgets] == ["12"]


def test_default_budgets_are_those_that_the_pool_can_fill(survey: Store, run: Path) -> None:
    assert [str(b) for b in _plan(run, survey, labels=()).budgets] == ["50", "all"]


BAD: tuple[tuple[dict[str, Any], type[SciencesslError], str], ...] = (
    ({"task": "morpholgy"}, ConfigError, "no task named 'morpholgy'. Did you mean 'morphology'"),
    ({"arms": ("frozn",)}, ConfigError, "no arm named 'frozn'. Did you mean 'frozen'"),
    ({"subsets": 0}, ConfigError, "subsets=0"),
    ({"random_encoders": 0}, ConfigError, "random_encoders=0"),
    ({"labels": ("500",)}, ConfigError, "label budget '500' of task 'morphology': split=train holds only 96 labelled"),
    ({"labels": ("40/class",)}, ConfigError, "no class of split=train has so many; the largest holds 32. Ask for"),
    ({"labels": ("120 galaxies",)}, ConfigError, "counts galaxies, but the unit"),
    ({"labels": ("120 objects",)}, ConfigError, r"split=train holds only 96 units \(object\)"),
    ({"labels": ("2",)}, ConfigError, "label budget '2' leaves classes '.*' of 3 classes without a label"),
    ({"labels": ("some",)}, ConfigError, "label budget 'some' is not understood"),
    ({"labels": ("50 patients",)}, ConfigError, "label budget '50 patients' counts patients, but the unit of task "
                                                "'morphology' on .* is 'object'; write '50 units'"),
)


@pytest.mark.parametrize(("changes", "kind", "message"), BAD)
def test_requests_that_cannot_be_met(
    survey: Store, run: Path, changes: dict[str, Any], kind: type[SciencesslError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        _plan(run, survey, **changes)


def test_units_may_be_named_as_in_the_catalogue(tmp_path: Path, make_store: Any, make_run: Any) -> None:
    names = [f"t{i:03d}" for i in range(36)]
    columns = {name: {"group": f"p{i // 3}", "patient": f"p{i // 3}", "site": "a"} for i, name in enumerate(names)}
    store = make_store(tmp_path / "s.zarr", names, domain="pathology", columns=columns)
    run = make_run(tmp_path / "run", store)
    for words in ("4 patients", "4 Patients", "4 groups", "4 units"):
        plan = _plan(run, store, task="tissue", labels=(words,))
        assert plan.subsets[0][plan.budgets[0]].n_units == 4
    with pytest.raises(ConfigError, match="counts sites, but the unit of task 'tissue'"):
        _plan(run, store, task="tissue", labels=("4 sites",))


def test_runs_and_stores_that_cannot_be_used(tmp_path: Path, survey: Store, run: Path, make_run: Any) -> None:
    twin = make_run(tmp_path / "first", survey, seed=3)
    with pytest.raises(ConfigError, match=r"runs share folder names \(first, first\); give each run folder a name"):
        make_plan(Request((run, twin), survey.path, tmp_path, **DEFAULTS))
    with pytest.raises(ConfigError, match=r"first: given more than once; a run counts once\."):
        make_plan(Request((run, f"{run}/"), survey.path, tmp_path, **DEFAULTS))
    with pytest.raises(RunError, match="has no exported model"):
        _plan(tmp_path / "none", survey)
    header = StoreHeader("galaxy", "images", load_domain("galaxy").fields, 1, 8, {}, "plan", "config")
    create_store(tmp_path / "open.zarr", header, 1000)
    with pytest.raises(StoreError, match="was never sealed: its preparation did not finish"):
        make_plan(Request((run,), tmp_path / "open.zarr", tmp_path, **DEFAULTS))
    grey = make_run(tmp_path / "grey", survey, channels=("g", "r", "i"))
    with pytest.raises(DataError, match=r"grey was trained on field 'image' with channels \['g', 'r', 'i'\]"):
        _plan(grey, survey)


def test_class_ids_become_names() -> None:
    classes = ("round", "spiral", "edge-on")
    assert class_names("class id 1 has only 7 labels; x", classes) == "class 'spiral' has only 7 labels; x"
    assert class_names("no label of class ids [0, 2]", classes) == "no label of classes 'round', 'edge-on'"


def test_a_task_from_a_file_is_planned_as_one_of_the_domain(tmp_path: Path, survey: Store, run: Path) -> None:
    path = tmp_path / "shape.yaml"
    path.write_text("column: class\nclasses: {elliptical: round, spiral: disk, edge-on: disk}\nbudgets: [12]\n")
    plan = _plan(run, survey, task=str(path), labels=())
    assert (plan.data.task.name, plan.data.classes) == ("shape", ("disk", "round"))
    assert [str(budget) for budget in plan.budgets] == ["12"]


def test_ways_of_testing_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"--folds 5 tests every labelled sample .* once, --test other\.zarr others"):
        Request((Path("run"),), Path("store"), Path("out"), folds=5, test="other.zarr")
    with pytest.raises(ConfigError, match="--repeats 3 deals the folds anew: give --folds too"):
        Request((Path("run"),), Path("store"), Path("out"), repeats=3)


def test_arms_that_a_kind_of_task_has(tmp_path: Path, survey: Store, run: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("column: class\nkind: retrieval\n")
    assert [curve.arm for curve in _plan(run, survey, task=str(path), arms=()).curves] == ["frozen", "random"]
    assert [curve.arm for curve in _plan(run, survey, arms=()).curves] == ["frozen", "knn", "random"]
    with pytest.raises(ConfigError, match=r"'search' is of kind 'retrieval'; arm 'knn' is for kind 'class'\."):
        _plan(run, survey, task=str(path), arms=("knn",))


def test_training_arms_draw_the_first_subsets(survey: Store, run: Path) -> None:
    plan = _plan(run, survey, subsets=4, finetune_subsets=3, arms=("frozen", "finetune", "scratch"))
    small, _, everything = plan.budgets
    assert [list(plan.seeds(small, arm)) for arm in ("frozen", "finetune", "scratch")] == [
        [0, 1, 2, 3], [0, 1, 2], [0, 1, 2]
    ]
    assert list(plan.seeds(everything, "finetune")) == [0]
    assert list(_plan(run, survey, subsets=2, finetune_subsets=3).seeds(small, "finetune")) == [0, 1]
    assert plan.training_of("finetune") == Training()
    assert plan.training_of("scratch") == Training().from_scratch
    some = _plan(run, survey, finetune_labels=("36",), arms=("frozen", "scratch"))
    assert [str(budget) for budget in some.budgets_of("scratch")] == ["36"]
    assert some.budgets_of("frozen") == some.budgets
    with pytest.raises(ConfigError, match=r"20 are not among the label budgets 12, 36, all, .*; add them to --labels"):
        _plan(run, survey, finetune_labels=("20",))
    assert plan.training_of("linear") == Training(stages=0)


def test_fits_are_filed_by_all_that_trains_them(survey: Store, run: Path) -> None:
    arms = ("frozen", "finetune", "scratch")
    plans = [_plan(run, survey, arms=arms, training=t) for t in (Training(), Training(5), Training(300, 2))]
    keys = {arm: {plan.key(_item(plan, arm)) for plan in plans} for arm in arms}
    assert [len(keys[arm]) for arm in arms] == [1, 3, 2]


def _item(plan: Plan, arm: str, budget: int = 0, seed: int = 0) -> Item:
    return Item(arm, plan.runs[0], plan.parts[0], plan.budgets[budget], seed)


def test_one_model_of_each_arm_is_kept(survey: Store, run: Path) -> None:
    plan = _plan(run, survey)
    kept = {(arm, str(budget), seed): plan.model_folder(_item(plan, arm, number, seed))
            for arm in ("frozen", "knn", "finetune", "random") for number, budget in enumerate(plan.budgets)
            for seed in (0, 1)}
    assert {key: str(path) for key, path in kept.items() if path} == {
        ("frozen", "all", 0): "nowhere/models/frozen-first", ("finetune", "all", 0): "nowhere/models/finetune-first",
    }
