"""Settings: frozen dataclasses are the only truth; YAML layers and flags fill them, and each value knows its layer.

Layers, later ones win: defaults -> scale -> method -> domain -> user files -> flags.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sciencessl.data.phases import read_phases
from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.layers import Layer, leaf_names, read_yaml, recipes
from sciencessl.setting_groups import ComputeConfig, LogConfig, Norm, OptimConfig, SamplingConfig, require

LENGTHS = ("epochs", "steps", "minutes")
"""Settings that each give the length of a run: one of them in a layer replaces another of the layers below."""
Stores = str | Path | Sequence[str | Path]
"""One store, or several that a run learns from together."""


def store_paths(data: Stores) -> tuple[str, ...]:
    """The stores as texts, in the order given; none for an empty one."""
    given = data if isinstance(data, (list, tuple)) else [data]
    return tuple(str(path) for path in given if str(path))


@dataclass(frozen=True)
class RunConfig:
    """One pretraining run.

    Attributes:
        data: Folder of the sealed store, or of several with one domain and equal fields.
        method: Name of a method, or FILE.py:NAME.
        backbone: timm architecture; empty means the domain's own.
        norm: What normalises encoder and heads. `batch`: the architecture's own. For ResNets and RegNets also
            `group_ws`, group norm and standardised weights, and `none`, scales and shifts that start from the first
            batch: without batch statistics a step is the same however its batch is divided (arXiv 2010.10241).
        labels: Questions of the store's vote table, or class columns, that the label term learns from.
        probes: Questions, class columns, or `A+B` for columns of several labels, that online probes are scored by while
            the encoder trains. It does not learn from them, but runs may be chosen by them: the model card says so.
        label_weight: Weight w of the label term, relative to the pair loss.
        seed: Of weights, order and augmentation.
        batch: Samples of one optimiser step.
        accumulate: Micro-batches that a step is computed in; divides `batch`.
        phases: BATCH@EPOCH..., such as 512@10 1024@20: multiples of `batch`, and the epochs from which on steps have so
            many samples. Micro-batches stay as large; learning rate and momentum follow as at another batch.
        epochs: Length of the run in epochs: passes over split=train, unless `sampling` says otherwise. One of epochs,
            steps and minutes is given.
        steps: Length in optimiser steps.
        minutes: Length in minutes, turned into steps by a short measurement at the start.
        slots: Slots S of the order; 0 means gcd(batch, 64). Saved: it decides the order.
        branches_on: Start the last norm scale of each residual branch at 1, as for the numbers of the BYOL paper, not
            at 0, as in its released code (byol/README.md). The loss falls faster; short runs did not learn more.
        init_from: What the encoder starts from: a run folder, a weight file, or weights by name (timm:NAME.TAG,
            timm:NAME@FILE, seer:32gf, hub:OWNER/NAME, local-dir:FOLDER); empty means from scratch.
    """

    data: tuple[str, ...]
    method: str = "byol"
    backbone: str = ""
    norm: Norm = "batch"
    labels: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    label_weight: float = 1.0
    seed: int = 0
    batch: int = 256
    accumulate: int = 1
    phases: tuple[str, ...] = ()
    epochs: float = 0.0
    steps: int = 0
    minutes: float = 0.0
    slots: int = 0
    branches_on: bool = False
    init_from: str = ""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        require(bool(self.data), "data", self.data, "the folder of a store", "make one with `sciencessl prepare`")
        require(self.batch >= 2, "batch", self.batch, "2 or more", "batch statistics need more than one sample")
        require(
            self.accumulate >= 1 and self.batch % self.accumulate == 0, "accumulate", self.accumulate,
            f"a divisor of batch={self.batch}", "use 1, 2 or 4 with a batch that is a power of two",
        )
        require(
            self.batch // self.accumulate >= 2, "accumulate", self.accumulate, f"at most half of batch={self.batch}",
            "batch statistics need two samples in each micro-batch",
        )
        require(
            0 <= self.label_weight < math.inf, "label_weight", self.label_weight, "0 or more and finite",
            "1.0 is the default; for the label loss alone use method labels_only",
        )
        require(
            self.slots >= 0 and (self.slots == 0 or self.batch % self.slots == 0), "slots", self.slots,
            f"0 or a divisor of batch={self.batch}", "0 chooses",
        )
        for batch in (self.batch, *(size for _, size in read_phases(self.phases, self.batch))):
            self.optim.at_batch(batch)  # refuses what cannot be scaled
        lengths = {name: getattr(self, name) for name in LENGTHS}
        require(
            all(0 <= v < math.inf for v in lengths.values()), "epochs, steps, minutes", lengths, "0 or more", "give one"
        )
        require(
            sum(v > 0 for v in lengths.values()) <= 1, "epochs, steps, minutes", lengths, "at most one above 0",
            "give the run one length",
        )
        require(
            self.method != "labels_only" or bool(self.labels), "labels", self.labels, "given with method labels_only",
            "name questions or class columns with --labels",
        )
        require(
            not self.sampling.labelled_share or bool(self.labels), "sampling.labelled_share",
            self.sampling.labelled_share, "given with labels", "name questions or class columns with --labels",
        )


@dataclass(frozen=True)
class FullConfig:
    """A run's settings with those of its method and domain.

    Attributes:
        run: The run.
        options: An instance of the method's `Options`.
        views: An instance of the domain's `train_options`.
        origin: Dotted name of every setting -> the layer that set it.
    """

    run: RunConfig
    options: Any
    views: Any
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as saved in `config.yaml`: a single store is a text there."""
        run = _plain(dataclasses.asdict(self.run))
        return {
            **run,
            "data": run["data"][0] if len(run["data"]) == 1 else run["data"],
            "options": _plain(dataclasses.asdict(self.options)),
            "views": _plain(dataclasses.asdict(self.views)),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def build_config(
    layers: Iterable[Layer], options_type: type, views_type: type, flags: Mapping[str, Any] | None = None
) -> FullConfig:
    """Merge layers deeply, check every name, and build the typed settings.

    Args:
        layers: In order; later ones win. Settings of views in a method's preset that the domain lacks are left out.
        options_type: The method's `Options`.
        views_type: The domain's `train_options`.
        flags: Dotted name -> value, as typed (text is parsed as YAML) or as a Python value.

    Raises:
        ConfigError: For an unknown name (with its layer and the closest known one), a wrong type or a broken rule.
    """
    stack = [*layers, Layer("flags", flags or {})]
    known = set(leaf_names(RunConfig)) | {
        f"{prefix}.{name}" for prefix, kind in (("options", options_type), ("views", views_type))
        for name in leaf_names(kind)
    }
    origin: dict[str, str] = dict.fromkeys(sorted(known), "default")
    merged: dict[str, Any] = {}
    for layer in stack:
        found = dict(flatten(layer.values, known))
        if any(name in found for name in LENGTHS):
            for name in LENGTHS:
                merged.pop(name, None)
                origin[name] = "default"
        for name, value in found.items():
            if name in known:
                origin[name], merged[name] = layer.name, value
            elif not (layer.name.startswith("method ") and name.startswith("views.")):
                said = f"{layer.name}: no setting named {name!r}{_whose(name)}."
                raise ConfigError(said + _help(layer.name, name, known))
    values = nest(merged)
    if isinstance(values.get("data"), str):
        values["data"] = store_paths(values["data"])
    options = parse_settings(options_type, values.pop("options", {}), "options.", origin)
    views = parse_settings(views_type, values.pop("views", {}), "views.", origin)
    return FullConfig(parse_settings(RunConfig, values, "", origin), options, views, origin)


def _whose(name: str) -> str:
    """Where the settings of a group are declared, if not here: a file for one domain or method may not suit another."""
    return {"views": " for the domain of this run", "options": " for this method"}.get(name.partition(".")[0], "")


def _help(layer: str, name: str, known: set[str]) -> str:
    """What is near an unknown setting: the closest name, or else all of its group; what to do where a recipe has it."""
    if layer in [f"recipe/{recipe}" for recipe in recipes()]:  # no typing error: tests hold its names
        return " The recipe is for others: copy its settings (`sciencessl presets`) into a file and leave that one out."
    group = name.rpartition(".")[0]
    near = sorted(other for other in known if other.rpartition(".")[0] == group)
    return did_you_mean(name, known) or f" Settings beside it: {', '.join(near) or 'none'}."


def parse_settings(kind: type, values: Mapping[str, Any], prefix: str, origin: Mapping[str, str]) -> Any:
    """Build a settings dataclass from nested values, checking every type.

    A single value of a setting that takes any number of them may stand without brackets.

    Raises:
        ConfigError: Naming the setting, its layer, the value given and what was expected.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "settings")
    try:
        return parser.instantiate(parser.parse_object({"settings": _listed(kind, values)})).settings
    except ArgumentError as error:
        raise _readable(error, prefix, origin) from error


def _listed(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each single one of a setting of any number in a list: `--log.loggers csv`, `probes: class`."""
    found = dict(values)
    group: Any
    for entry in dataclasses.fields(kind):
        value, group = found.get(entry.name), entry.default_factory
        if dataclasses.is_dataclass(group) and isinstance(value, Mapping):
            found[entry.name] = _listed(group, value)
        elif str(entry.type).endswith("...]") and isinstance(value, (str, int)) and not str(value).startswith("["):
            found[entry.name] = [value]
    return found


def _readable(error: Exception, prefix: str, origin: Mapping[str, str]) -> ConfigError:
    """The parser's message about one key, in our words."""
    text = " ".join(str(error).split())
    match = re.search(r'key "settings\.?([\w.]*)":\s*(.*)', text)
    if match is None:
        return ConfigError(f"settings: {text}")
    name = f"{prefix}{match[1]}"
    what = re.sub(r"<class '(\w+)'>", r"\1", match[2]).replace("typing.", "").replace("Expected a", "expected")
    what = re.sub(r"Literal\[([^]]*)\]", r"one of \1", what)
    what = what.replace("expected tuple.", "expected a list such as [a, b].")
    return ConfigError(f"{name} (set by {origin.get(name, 'a file')}): {what}")


def flatten(values: Mapping[str, Any], known: set[str], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted name, value); a mapping that is itself a setting's value is left whole."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping) and full not in known:
            flat += flatten(value, known, f"{full}.")
        else:
            flat.append((full, value))
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names -> nested mappings."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return nested


def save_config(config: FullConfig, path: Path) -> None:
    """Write the resolved settings as YAML; `load_config` reads them back to an equal `FullConfig`."""
    path.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_config(
    path: Path, options_type: type, views_type: type, flags: Mapping[str, Any] | None = None
) -> FullConfig:
    """Read what `save_config` wrote; flags win over it.

    Raises:
        ConfigError: When it is missing or no longer valid.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: the folder is no run, or its run never started.")
    return build_config([Layer(str(path), read_yaml(path))], options_type, views_type, flags)
