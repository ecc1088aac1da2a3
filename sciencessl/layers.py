"""Layers of settings from YAML files: those shipped for scales, methods, domains and recipes, and those of users."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from sciencessl import registry
from sciencessl.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Layer:
    """One source of settings: its name as shown to people, and its nested values."""

    name: str
    values: Mapping[str, Any]


def preset_layers(scale: str, method: str, domain: str, user: Sequence[str | Path]) -> list[Layer]:
    """Layers in their fixed order. A preset without a file (a plug-in's, say) adds nothing.

    Raises:
        ConfigError: For an unknown scale, or a user file that cannot be read.
    """
    layers = [_scale_layer(scale)]
    if ".py:" not in method:
        layers += _optional(files("sciencessl.configs") / "method" / f"{method}.yaml", f"method {method}")
    layers += _domain_layer(domain)
    return layers + [_user_layer(path) for path in user]


def chosen_method(user: Sequence[str | Path], otherwise: str) -> str:
    """The method that user files name, the last of them, or another.

    Raises:
        ConfigError: For a file that cannot be read.
    """
    named = [str(values["method"]) for path in user if "method" in (values := _user_layer(path).values)]
    return named[-1] if named else otherwise


def _domain_layer(domain: str) -> list[Layer]:
    path = registry.domain_preset(domain)
    return _optional(path, f"domain {domain}") if path else []


def scales() -> list[str]:
    """Names of the shipped scales."""
    return list(shipped("scale"))


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return list(shipped("recipe"))


def shipped(kind: str) -> dict[str, Any]:
    """The shipped files of settings of a kind (`scale`, `method`, `recipe`): name -> file, in order of the names."""
    found = sorted((files("sciencessl.configs") / kind).iterdir(), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): entry for entry in found if entry.name.endswith(".yaml")}


def _scale_layer(scale: str) -> Layer:
    if scale not in scales():
        raise ConfigError(unknown_name("scale", scale, scales()))
    return Layer(f"scale {scale}", read_yaml(files("sciencessl.configs") / "scale" / f"{scale}.yaml"))


def _optional(path: Any, name: str) -> list[Layer]:
    return [Layer(name, read_yaml(path))] if path.is_file() else []


def _user_layer(path: str | Path) -> Layer:
    name = str(path)
    if name.startswith("recipe/"):
        recipe = files("sciencessl.configs") / "recipe" / f"{name.removeprefix('recipe/')}.yaml"
        if recipe.is_file():
            return Layer(name, read_yaml(recipe))
        if not Path(path).is_file():
            raise ConfigError(f"--config {unknown_name('recipe', name.removeprefix('recipe/'), recipes())}")
    if not Path(path).is_file():
        raise ConfigError(f"--config {path}: there is no such file. Recipes that are shipped are given as recipe/NAME.")
    return Layer(name, read_yaml(Path(path)))


def read_yaml(path: Any) -> dict[str, Any]:
    """The settings of a YAML file (a path or a packaged resource) as a mapping; an empty file has none.

    Raises:
        ConfigError: When it is no valid YAML, or holds anything but `name: value`.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, expected settings as `name: value`.")
    return values or {}


def leaf_names(kind: Any, prefix: str = "") -> list[str]:
    """Dotted names of all settings of a dataclass."""
    names: list[str] = []
    for entry in dataclasses.fields(kind):
        group: Any = entry.default_factory
        if dataclasses.is_dataclass(group):
            names += leaf_names(group, f"{prefix}{entry.name}.")
        else:
            names.append(f"{prefix}{entry.name}")
    return names
