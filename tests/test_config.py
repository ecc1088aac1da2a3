"""Settings: layers, where each value came from, and what a user reads when one is wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from sciencessl import registry
from sciencessl.config import FullConfig, RunConfig, build_config, flatten, load_config, nest, save_config, store_paths
from sciencessl.domains.galaxy.views import GalaxyViews
from sciencessl.errors import ConfigError
from sciencessl.layers import Layer, leaf_names, preset_layers, scales
from sciencessl.methods.byol import ByolOptions
from sciencessl.methods.labels_only import LabelsOnlyOptions
from sciencessl.methods.swav import SwavOptions
from sciencessl.setting_groups import LogConfig

LEAVES = [
    "data", "method", "backbone", "norm", "labels", "probes", "label_weight", "seed", "batch", "accumulate", "phases",
    "epochs", "steps", "minutes", "slots", "branches_on", "init_from", "sampling.balance", "sampling.exponent",
    "sampling.weights", "sampling.labelled_share", "sampling.rates", "optim.name", "optim.base_lr",
    "optim.weight_decay", "optim.momentum", "optim.warmup", "optim.final", "optim.scaling",
    "optim.reference_batch",
    "compute.precision", "compute.memory_format", "compute.device", "compute.threads", "compute.workers",
    "compute.strategy", "compute.sync_bn_ranks", "compute.checkpointing", "compute.compile", "log.every",
    "log.monitor_every", "log.checkpoint_every", "log.keep_checkpoints", "log.loggers",
]


def build(flags: dict[str, Any] | None = None, layers: list[Layer] | None = None) -> FullConfig:
    return build_config(layers or [], ByolOptions, GalaxyViews, {"data": "store.zarr", **(flags or {})})


def test_the_settings_of_a_run_are_these_and_no_more_than_46() -> None:
    assert leaf_names(RunConfig) == LEAVES
    assert len(LEAVES) <= 46


def test_the_options_of_the_methods_are_these() -> None:
    assert leaf_names(ByolOptions) == ["hidden", "out", "tau_base", "tau_schedule", "tau_batch"]
    assert leaf_names(LabelsOnlyOptions) == []
    assert leaf_names(SwavOptions) == [
        "hidden", "out", "norm", "prototypes", "temperature", "epsilon", "iterations", "frozen_steps", "queue",
        "queue_start",
    ]


def test_later_layers_win_leaf_by_leaf_and_every_value_knows_its_layer() -> None:
    found = build(
        {"optim.momentum": 0.8, "views": {"size": 48}},
        [
            Layer("scale laptop", {"batch": 32, "optim": {"base_lr": 0.1, "momentum": 0.5}}),
            Layer("domain galaxy", {"views": {"size": 40, "area": [0.1, 0.2]}}),
            Layer("mine.yaml", {"optim": {"base_lr": 0.3}, "options": {"hidden": 64}}),
        ],
    )
    assert (found.run.batch, found.run.optim.base_lr, found.run.optim.momentum) == (32, 0.3, 0.8)
    assert (found.run.optim.weight_decay, found.options.hidden, found.options.out) == (1.5e-6, 64, 256)
    assert (found.views.size, found.views.area) == (48, (0.1, 0.2))
    origin = found.origin
    assert (origin["batch"], origin["optim.base_lr"]) == ("scale laptop", "mine.yaml")
    assert origin["optim.momentum"] == "flags"
    assert (origin["views.area"], origin["views.size"]) == ("domain galaxy", "flags")
    assert origin["optim.weight_decay"] == "default"
    assert set(origin) == {
        *LEAVES, *(f"options.{n}" for n in leaf_names(ByolOptions)), *(f"views.{n}" for n in leaf_names(GalaxyViews))
    }


def test_the_views_that_a_method_asks_for_are_left_out_where_a_domain_has_no_such_setting() -> None:
    @dataclass(frozen=True)
    class Bare:
        size: int = 8

    layers = preset_layers("laptop", "labels_only", "galaxy", [])
    assert [layer.values for layer in layers if layer.name == "method labels_only"] == [{"views": {"large_views": 1}}]
    flags = {"data": "store.zarr", "labels": ["class"]}
    assert build_config(layers, LabelsOnlyOptions, Bare, flags).views == Bare()
    assert build_config(layers, LabelsOnlyOptions, GalaxyViews, flags).views == GalaxyViews(large_views=1)
    with pytest.raises(ConfigError, match=r"flags: no setting named 'views.large_views' for the domain of this run"):
        build_config(layers, LabelsOnlyOptions, Bare, {**flags, "views.large_views": 1})


def test_the_order_of_the_shipped_layers_is_scale_method_domain_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, folder = tmp_path / "mine.yaml", tmp_path / "pkg"
    mine.write_text("batch: 16\n")
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "preset.yaml").write_text("views: {size: 96}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "domain_module", lambda name: "pkg")
    layers = preset_layers("laptop", "byol", "galaxy", [mine])
    assert [layer.name for layer in layers] == ["scale laptop", "method byol", "domain galaxy", str(mine)]
    assert build(layers=layers).run.batch == 16


def test_a_domain_in_a_single_module_has_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone_domain.py").write_text("SPEC = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "domain_module", lambda name: "lone_domain")
    assert [layer.name for layer in preset_layers("laptop", "byol", "lone", [])] == ["scale laptop", "method byol"]


def test_a_method_of_ones_own_file_has_no_preset() -> None:
    names = [layer.name for layer in preset_layers("laptop", "some/byol.py:Byol", "web", [])]
    assert names[0] == "scale laptop"
    assert not any(name.startswith("method") for name in names)


def _presets() -> list[Path]:
    return sorted(Path(str(files("sciencessl.configs"))).rglob("*.yaml"))


@pytest.mark.parametrize("path", _presets(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_preset_is_valid_somewhere(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert path.read_text().startswith("#"), "a preset says in a comment what it is for"
    errors = []
    for domain in registry.domains():
        for method in registry.methods():
            if path.parent.name == "method" and path.stem != method.name:
                continue
            options = registry.load_method(method.name).Options
            views, flags = registry.load_domain(domain.name).train_options, {"data": "store.zarr", "labels": ["x"]}
            try:
                build_config([Layer(path.stem, values)], options, views, flags)
            except ConfigError as error:
                errors.append(str(error))
            else:
                return
    raise AssertionError(errors)


def test_presets_are_values_and_name_no_python() -> None:
    for path in _presets():
        assert not any("class_path" in name or "sciencessl." in str(value)
                       for name, value in flatten(yaml.safe_load(path.read_text()), set()))
    assert "laptop" in scales()


def test_what_is_saved_is_read_back_equal(tmp_path: Path) -> None:
    found = build({"labels": ["smooth", "class"], "phases": ["512@1"], "optim.base_lr": 3e-5,
                   "views.area": [0.2, 0.7], "steps": 12, "compute.precision": "bfloat16",
                   "options.tau_schedule": "constant"})
    path = tmp_path / "config.yaml"
    save_config(found, path)
    again = load_config(path, ByolOptions, GalaxyViews)
    assert again == found
    assert again.origin["steps"] == str(path)
    assert dataclasses.replace(found, run=dataclasses.replace(found.run, seed=1)) != found


def test_one_store_is_a_text_and_several_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for data, saved in (("a.zarr", "a.zarr"), (["a.zarr"], "a.zarr"), (["a.zarr", "b.zarr"], ["a.zarr", "b.zarr"])):
        found = build({"data": data})
        assert found.run.data == store_paths(data)
        save_config(found, path)
        assert yaml.safe_load(path.read_text())["data"] == saved
        assert load_config(path, ByolOptions, GalaxyViews) == found
    assert store_paths(tmp_path) == (str(tmp_path),)
    assert store_paths("") == store_paths([]) == ()


def test_a_run_without_a_config_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.yaml is missing: the folder is no run"):
        load_config(tmp_path / "config.yaml", ByolOptions, GalaxyViews)


@pytest.mark.parametrize(
    ("flags", "value", "rule", "fix"),
    [
        ({"data": ""}, "data is ()", "the folder of a store", "sciencessl prepare"),
        ({"batch": 1}, "batch is 1", "2 or more", "more than one sample"),
        ({"batch": 10, "accumulate": 3}, "accumulate is 3", "a divisor of batch=10", "use 1, 2 or 4"),
        ({"batch": 4, "accumulate": 4}, "accumulate is 4", "at most half of batch=4", "two samples in each"),
        ({"label_weight": -1}, "label_weight is -1.0", "0 or more", "1.0 is the default"),
        ({"label_weight": float("inf")}, "label_weight is inf", "finite", "labels_only"),
        ({"batch": 8, "slots": 3}, "slots is 3", "0 or a divisor of batch=8", "0 chooses"),
        ({"batch": 8, "phases": ["12@1"]}, "phases has 12@1", "multiples of batch=8", "16@1"),
        ({"batch": 4096, "phases": ["45056@1"], "optim.scaling": "sqrt", "optim.name": "adamw",
          "optim.reference_batch": 4096}, "beta 0.9 becomes -0.1 at 11 times", "in [0, 1)", "optim.reference_batch"),
        ({"steps": -1}, "'steps': -1", "0 or more", "give one"),
        ({"minutes": float("nan")}, "'minutes': nan", "0 or more", "give one"),
        ({"minutes": float("inf")}, "'minutes': inf", "0 or more", "give one"),
        ({"steps": 5, "epochs": 2}, "'epochs': 2.0, 'steps': 5", "at most one above 0", "one length"),
        ({"method": "labels_only"}, "labels is ()", "given with method labels_only", "--labels"),
        ({"sampling.exponent": 1.5, "sampling.balance": "a"}, "sampling.exponent is 1.5", "in [0, 1]", "0.5 tempers"),
        ({"sampling.exponent": 0.5}, "sampling.exponent is 0.5", "given with sampling.balance", "name the column"),
        ({"sampling.balance": "a", "sampling.weights": "b"}, "sampling.weights is 'b'", "sampling.balance 'a'",
         "give one of them"),
        ({"sampling.labelled_share": 1.0, "labels": ["a"]}, "labelled_share is 1.0", "below 1", "try 0.25"),
        ({"sampling.labelled_share": 0.5}, "labelled_share is 0.5", "given with labels", "--labels"),
        ({"sampling.rates": [2, 0]}, "sampling.rates is [2, 0]", "1 or more", "leave a store out"),
        ({"data": ["a", "b"], "sampling.rates": [2, 1], "sampling.labelled_share": 0.5, "labels": ["a"]},
         "sampling.rates is [2, 1]", "both divide each batch", "rates that give it that share"),
        ({"optim.base_lr": 0}, "optim.base_lr is 0.0", "above 0", "0.2 with lars"),
        ({"optim.base_lr": float("inf")}, "optim.base_lr is inf", "above 0", "0.2 with lars"),
        ({"optim.weight_decay": -0.1}, "optim.weight_decay is -0.1", "0 or more", "1.5e-6"),
        ({"optim.momentum": 1}, "optim.momentum is 1.0", "in [0, 1)", "0.9"),
        ({"optim.warmup": 1.5}, "optim.warmup is 1.5", "a fraction in [0, 1]", "0.01"),
        ({"optim.final": 1.5}, "optim.final is 1.5", "a fraction in [0, 1]", "1 is a constant rate"),
        ({"optim.scaling": "sqrt"}, "optim.scaling is 'sqrt'", "linear or none with lars", "optim.name to adamw"),
        ({"optim.reference_batch": 0}, "optim.reference_batch is 0", "1 or more", "256"),
        ({"optim.scaling": "sqrt", "optim.name": "adamw", "batch": 4096}, "beta 0.9 becomes -0.6 at 16 times its batch",
         "in [0, 1)", "optim.reference_batch"),
        ({"compute.threads": -1}, "compute.threads is -1", "0 or more", "0 means"),
        ({"compute.workers": -2}, "compute.workers is -2", "-1 or more", "-1 chooses"),
        *(({f"log.{e.name}": 0}, f"log.{e.name} is 0", "1 or more", "the default") for e in
          dataclasses.fields(LogConfig) if e.name != "loggers"),
        ({"log.loggers": ["csv", "csv"]}, "log.loggers is ['csv', 'csv']", "each logger once", "name each once"),
    ],
    ids=str,
)
def test_an_error_says_value_rule_and_fix(flags: dict[str, Any], value: str, rule: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(flags)
    text = str(caught.value)
    assert value in text
    assert f"must be {rule}" in text or rule in text
    assert fix in text.partition("Fix: ")[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"optim.base_lr": "abc"}, r"optim.base_lr \(set by flags\): expected float. Got value: abc"),
        ({"batch": 7.5}, r"batch \(set by flags\): expected int. Got value: 7.5"),
        ({"optim.name": "sgd"}, r"optim.name \(set by flags\): expected one of .*'larc', 'adamw'. Got value: sgd"),
        ({"views.area": [0.1]}, r"views.area \(set by flags\): expected tuple with 2 elements"),
        ({"labels": {"a": 1}}, r"labels \(set by flags\): expected a list such as \[a, b\]. Got value: "),
        ({"log.loggers": "tensorbord"}, r"log.loggers \(set by flags\): expected one of 'csv', 'tensorboard', "),
        ({"views.colour": "swav"}, r"flags: no setting named 'views.colour' for the domain of this run\."),
        ({"options.tau": 1}, r"flags: no setting named 'options.tau' for this method\."),
        ({"optim": 3}, r"flags: no setting named 'optim'. Did you mean 'optim.name'\?"),
        ({"batch.x": 1}, r"flags: no setting named 'batch.x'. Did you mean 'batch'\?"),
        ({"options.qqqqqqqqqqqqqq": 1}, r"qqqq' for this method. Settings beside it: options.hidden"),
        ({"qqqq": 1}, r"no setting named 'qqqq'. Settings beside it: .*batch"),
    ],
)
def test_wrong_types_and_names_are_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(flags)


def test_a_recipe_for_another_method_says_what_to_do() -> None:
    layers = preset_layers("laptop", "labels_only", "galaxy", ["recipe/small_photos"])
    words = r"^recipe/small_photos: no setting named 'options.tau_base' for this method\. The recipe is for others"
    with pytest.raises(ConfigError, match=words):
        build_config(layers, LabelsOnlyOptions, GalaxyViews, {"data": "x", "steps": 1})


def test_the_file_that_set_a_wrong_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optim: {base_lrr: 3}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: no setting named 'optim.base_lrr'. Did you mean 'optim.base"):
        build(layers=preset_layers("laptop", "byol", "galaxy", [path]))
    path.write_text("optim: {base_lr: many}\n")
    with pytest.raises(ConfigError, match=r"optim.base_lr \(set by .*mine.yaml\)"):
        build(layers=preset_layers("laptop", "byol", "galaxy", [path]))
    path.write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"mine.yaml is not valid YAML"):
        preset_layers("laptop", "byol", "galaxy", [path])
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"holds a list, expected settings as `name: value`"):
        preset_layers("laptop", "byol", "galaxy", [path])
    path.write_text("")
    assert preset_layers("laptop", "byol", "galaxy", [path])[-1] == Layer(str(path), {})
    with pytest.raises(ConfigError, match=r"--config .*nothing.yaml: there is no such file\. Recipes"):
        preset_layers("laptop", "byol", "galaxy", [tmp_path / "nothing.yaml"])
    with pytest.raises(ConfigError, match=r"--config no recipe named 'seer_256'. Did you mean 'seer_256gf'\?"):
        preset_layers("laptop", "byol", "galaxy", ["recipe/seer_256"])


def test_a_file_may_lie_in_a_folder_that_is_called_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("batch: 32\n")
    assert preset_layers("laptop", "byol", "galaxy", ["recipe/mine.yaml"])[-1].values == {"batch": 32}


def test_a_single_value_needs_no_brackets_where_any_number_may_stand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{probes: class, phases: 512@3, sampling: {rates: 2}, log: {loggers: csv}}\n")
    run = build(layers=preset_layers("laptop", "byol", "galaxy", [path])).run
    assert (run.probes, run.phases, run.sampling.rates, run.log.loggers) == (("class",), ("512@3",), (2,), ("csv",))
    assert build({"log.loggers": "csv"}).run.log.loggers == ("csv",)
    assert build({"log.loggers": "[]"}).run.log.loggers == ()


def test_text_from_a_command_line_is_read_as_yaml() -> None:
    found = build({"batch": "64", "phases": "[128@1.5, 256@2]", "optim.base_lr": "1e-3",
                   "labels": "[smooth, class]", "views.parity_safe": "true"})
    assert (found.run.batch, found.run.optim.base_lr) == (64, 1e-3)
    assert found.run.phases == ("128@1.5", "256@2")
    assert (found.run.labels, found.views.parity_safe) == (("smooth", "class"), True)


@dataclass(frozen=True)
class _Mapped:
    weights: dict[str, float] = dataclasses.field(default_factory=dict)


def test_a_mapping_that_is_a_value_is_not_taken_apart() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}}, {"a.c"}) == [("a.b", 1), ("a.c", {"d": 2})]
    assert nest({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    found = build_config([], _Mapped, GalaxyViews, {"data": "x", "options.weights": {"smooth": 0.5}})
    assert found.options.weights == {"smooth": 0.5}
