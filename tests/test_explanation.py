"""`config explain`: the values that `pretrain` would use, the layer of each, and what a run was started with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sciencessl.config import RunConfig, flatten
from sciencessl.errors import ConfigError, RegistryError, StoreError
from sciencessl.explanation import SETTLED, Setting, explain, explanation_text
from sciencessl.layers import leaf_names
from sciencessl.registry import load_domain, load_method
from sciencessl.train.run import pretrain

SMALL = {
    "backbone": "test_resnet", "batch": 16, "views.size": 32, "epochs": 0.2, "options.hidden": 32, "options.out": 16,
    "compute.workers": 0, "compute.threads": 1, "compute.precision": "float32", "compute.memory_format": "contiguous",
}  # fmt: skip


def named(rows: list[Setting]) -> dict[str, Setting]:
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "byol"
    pretrain(tiny_store, out, settings=SMALL, tell=lambda line: None)
    return out


def test_every_setting_is_there_once() -> None:
    rows = explain(domain="web")
    kinds = (("", RunConfig), ("options.", load_method("byol").Options), ("views.", load_domain("web").train_options))
    expected = [f"{prefix}{name}" for prefix, kind in kinds for name in leaf_names(kind)]
    assert sorted(row.name for row in rows) == sorted(name for name in expected if name != "data")


def test_each_value_knows_its_layer(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("batch: 64\nviews:\n  area: [0.5, 0.9]\n", encoding="utf-8")
    rows = named(explain(domain="galaxy", config=["recipe/small_stamps", mine], settings={"seed": "3"}))
    assert (rows["seed"].value, rows["seed"].origin) == (3, "flags")
    assert (rows["batch"].value, rows["batch"].origin, rows["batch"].default) == (64, str(mine), 256)
    assert (rows["views.area"].value, rows["views.area"].origin) == ([0.5, 0.9], str(mine))
    assert (rows["views.evaluation_window"].value, rows["views.evaluation_window"].origin) == (
        0.3, "recipe/small_stamps",
    )  # fmt: skip
    assert rows["optim.base_lr"].origin == "scale laptop"
    assert rows["options.hidden"].origin == "method byol"
    assert rows["method"].origin == rows["optim.momentum"].origin == "default"
    assert (rows["backbone"].value, rows["backbone"].origin) == (load_domain("galaxy").backbone, "domain galaxy")
    assert not rows["backbone"].changed


def test_changed_are_those_whose_value_is_not_the_default() -> None:
    rows = explain(domain="galaxy", settings={"views.size": 96, "log.every": 10})
    changed = explain(domain="galaxy", settings={"views.size": 96, "log.every": 10}, changed=True)
    assert changed == [row for row in rows if row.value != row.default]
    assert {"views.size", "batch"} <= set(named(changed))
    # Set, but to what they are anyway.
    assert not {"log.every", "optim.momentum", "backbone"} & set(named(changed))


def test_a_store_gives_the_same_as_its_domain(tiny_store: Path) -> None:
    by_store, by_domain = named(explain(data=tiny_store)), named(explain(domain="galaxy"))
    assert by_store.pop("data") == Setting("data", str(tiny_store), "flags", "")
    assert by_store == by_domain


def test_a_run_is_explained_by_what_it_ran_with(run: Path, tiny_store: Path) -> None:
    rows = named(explain(run))
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {name: row.value for name, row in rows.items()} == dict(flatten(saved, set(rows)))
    flags = {name for name, row in rows.items() if row.origin == "flags"}
    assert flags == ({"data"} | set(SMALL)) - {"epochs"}
    assert rows["steps"].origin == "flags, epochs=0.2"
    assert (rows["epochs"].value, rows["epochs"].origin) == (0.0, "default")
    assert (rows["optim.base_lr"].value, rows["optim.base_lr"].origin) == (0.01, SETTLED)
    assert rows["options.tau_schedule"].origin == "default"
    assert all(row.origin == "default" or row.name in SMALL for row in rows.values() if not row.changed)


def test_a_run_that_did_not_finish_is_read_with_its_store_where_that_is_now(
    run: Path, tiny_store: Path, tmp_path: Path
) -> None:
    begun = shutil.copytree(run, tmp_path / "begun", ignore=shutil.ignore_patterns("exported"))
    (begun / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(tiny_store), "/gone/x.zarr"))
    with pytest.raises(StoreError, match=r"x\.zarr is no store"):
        explain(begun)
    rows = named(explain(begun, data=tiny_store))
    assert (rows["views.size"].value, rows["views.size"].origin) == (32, "flags")


@pytest.mark.parametrize(
    ("given", "what"),
    [({"domain": "web"}, "--domain"), ({"method": "labels_only"}, "--method"), ({"config": ["x"]}, "--config"),
     ({"settings": {"batch": 3, "views.size": 1}}, "--batch, --views.size"), ({"scale": "big"}, "--scale")],
)  # fmt: skip
def test_nothing_is_changed_in_a_run(run: Path, given: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"byol has its settings already; got {what} as well. Give a run alone"):
        explain(run, **given)


def test_what_cannot_be_explained(tmp_path: Path, tiny_store: Path) -> None:
    for given in ({}, {"data": tiny_store, "domain": "web"}):
        with pytest.raises(ConfigError, match="one of --data STORE, --domain NAME"):
            explain(**given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"holds no run \(config.yaml is missing\)"):
        explain(tmp_path)
    with pytest.raises(RegistryError, match=r"no domain named 'wbe'\. Did you mean 'web'"):
        explain(domain="wbe")
    with pytest.raises(ConfigError, match=r"views.siz' for the domain of this run\. Did you mean 'views.size'"):
        explain(domain="web", settings={"views.siz": 3})


def test_the_text_is_aligned_and_shows_the_default_that_was_replaced() -> None:
    rows = [
        Setting("a.long", [1, 2], "scale x", [3, 4]), Setting("b", "", "default", ""), Setting("c", "x", "flags", ""),
    ]  # fmt: skip
    assert explanation_text(rows).splitlines() == [
        "a.long  [1, 2]  scale x  (default [3, 4])", "b       ''      default", "c       x       flags",
    ]  # fmt: skip
    assert explanation_text([]) == "every setting is at its default"
