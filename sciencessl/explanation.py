"""`config explain`: every setting of a run, its value, and the layer that set it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sciencessl.config import FullConfig, Stores, build_config, flatten, load_config, store_paths
from sciencessl.errors import ConfigError
from sciencessl.presets import shown
from sciencessl.registry import load_domain, load_method
from sciencessl.spec import DomainSpec
from sciencessl.store.remote import local_path
from sciencessl.train.folder import CONFIG, OVERRIDES, read_model
from sciencessl.train.run import DEFAULT_METHOD, DEFAULT_SCALE, domain_of, fresh_settings

FLAGS, DEFAULT = "flags", "default"
SETTLED = "preset, file or measured"
"""The layer of a run's setting that no flag set: of presets and measurements a run keeps the outcome alone."""


@dataclass(frozen=True)
class Setting:
    """One setting of a run.

    Attributes:
        name: Dotted.
        value: As a plain value.
        origin: The layer that set it.
        default: What it would be without any layer.
    """

    name: str
    value: Any
    origin: str
    default: Any

    @property
    def changed(self) -> bool:
        """Whether it differs from the default."""
        return bool(self.value != self.default)


def explain(
    run: str | Path = "",
    data: Stores = "",
    domain: str = "",
    method: str = "",
    scale: str = DEFAULT_SCALE,
    config: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    changed: bool = False,
) -> list[Setting]:
    """The settings that `pretrain` would use with the same arguments, or those that a run was started with.

    Args:
        run: A run folder. Its settings are final; `data` then says where its store has moved, if it has.
        data: A store, whose domain decides the view settings, or several.
        domain: Name of a domain, instead of a store.
        method: As in `pretrain`.
        scale: As in `pretrain`.
        config: As in `pretrain`.
        settings: As in `pretrain`.
        changed: Only settings that differ from their default.

    Raises:
        ConfigError: For no or several things to explain, a setting that does not exist, or one that breaks its rule.
        StoreError: When the store is missing or unsealed.
        RegistryError: For an unknown domain or method.
    """
    if str(run):
        asked = {
            "--domain": bool(domain), "--method": bool(method), "--scale": scale != DEFAULT_SCALE,
            "--config": bool(config), **{f"--{name}": True for name in settings or {}},
        }  # fmt: skip
        _refuse_beside_run(run, [name for name, given in asked.items() if given])
        rows = _of_run(local_path(run, "RUN"), data)
    else:
        rows = _of_layers(data, domain, method, scale, config, settings or {})
    return [row for row in rows if row.changed or not changed]


def _refuse_beside_run(run: str | Path, extra: Sequence[str]) -> None:
    if extra:
        raise ConfigError(
            f"{run} has its settings already; got {', '.join(extra)} as well. Give a run alone, or explain what a new "
            "run would use with --data STORE or --domain NAME."
        )


def _of_layers(
    data: Stores, domain: str, method: str, scale: str, config: Sequence[str | Path], settings: Mapping[str, Any]
) -> list[Setting]:
    if bool(store_paths(data)) == bool(domain):
        raise ConfigError(
            "config explain takes one of --data STORE, --domain NAME (see `sciencessl domains`) and a run folder: "
            "which settings there are depends on it."
        )
    spec = load_domain(domain) if domain else domain_of(data)
    full = fresh_settings(spec, store_paths(data) or "STORE", method, scale, config, settings)
    origin = dict(full.origin)
    if not full.run.backbone:
        origin["backbone"] = f"domain {spec.name}"
    rows = _rows(full, spec, origin)
    return rows if store_paths(data) else [row for row in rows if row.name != "data"]


def _rows(full: FullConfig, spec: DomainSpec, origin: Mapping[str, str]) -> list[Setting]:
    names = set(full.origin)
    without = build_config([], type(full.options), type(full.views), {"data": "STORE"})
    default = dict(flatten(without.to_dict(), names)) | {"data": ""}
    values = dict(flatten(full.to_dict(), names))
    # An empty name means the domain's own, which is what the run uses.
    default["backbone"] = spec.backbone
    values["backbone"] = values["backbone"] or spec.backbone
    return [Setting(name, value, origin[name], default[name]) for name, value in values.items()]


def _of_run(run: Path, data: Stores) -> list[Setting]:
    path = run / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run} holds no run ({CONFIG} is missing). Name a run, --data STORE or --domain NAME.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    finished = not store_paths(data) and (run / "exported").is_dir()
    spec = load_domain(read_model(run).domain) if finished else domain_of(data or values["data"])
    full = load_config(path, load_method(values["method"]).Options, spec.train_options)
    origin = _run_origins(run) | {"data": FLAGS}
    if full.run.method != DEFAULT_METHOD:
        origin["method"] = FLAGS
    rows = _rows(full, spec, full.origin)
    settled = {True: SETTLED, False: DEFAULT}
    return [replace(row, origin=origin.get(row.name, settled[row.changed])) for row in rows]


def _run_origins(run: Path) -> dict[str, str]:
    """What flags set in a run. Epochs or minutes are turned into steps when it starts, which are then what was set."""
    path = run / OVERRIDES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    flags = {line.partition("=")[0]: line for line in lines}
    length = flags.pop("minutes", "") or flags.pop("epochs", "")
    return dict.fromkeys(flags, FLAGS) | ({"steps": f"{FLAGS}, {length}"} if length else {})


def explanation_text(rows: Sequence[Setting]) -> str:
    """Aligned lines: name, value, the layer that set it, and the default where that differs."""
    cells = [(row.name, shown(row.value), row.origin) for row in rows]
    if not cells:
        return "every setting is at its default"
    widths = [max(len(cell[i]) for cell in cells) for i in range(3)]
    lines = []
    for row, cell in zip(rows, cells, strict=True):
        known = row.changed and row.default not in ("", [])
        start = "  ".join(word.ljust(width) for word, width in zip(cell, widths, strict=True))
        lines.append(f"{start}  (default {shown(row.default)})" if known else start.rstrip())
    return "\n".join(lines)
