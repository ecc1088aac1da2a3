"""Settings dataclasses as command-line flags: one place where a setting, its default and its documentation live."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sciencessl.config import RunConfig, flatten
from sciencessl.errors import ConfigError
from sciencessl.layers import preset_layers
from sciencessl.registry import domains, load_domain

MISSING = dataclasses.MISSING
EMPTY: tuple[Any, ...] = ("", (), {}, None, False, MISSING)
"""Defaults that mean "nothing", which the words of a setting explain where that matters."""


def add_settings(
    parser: argparse.ArgumentParser,
    kind: type,
    title: str,
    skip: Sequence[str] = (),
    preset: Mapping[str, Any] | None = None,
    preset_name: str = "",
) -> None:
    """Add a flag for every plain setting of a dataclass; nested dataclasses and names in `skip` are left out.

    Flags that are not given leave no trace in the namespace, so that lower layers keep their say.

    Args:
        parser: Receives the flags, in one group.
        kind: The dataclass.
        title: Of the group.
        skip: Settings without a flag.
        preset: Dotted setting -> value that a preset gives it: shown instead of the default.
        preset_name: Of that preset.
    """
    group = parser.add_argument_group(title)
    documented = attribute_docs(kind)
    for entry in dataclasses.fields(kind):
        if entry.name in skip or dataclasses.is_dataclass(entry.default_factory):
            continue
        default = default_of(entry)
        text = documented.get(entry.name, "") + shown_default(entry.name, default, preset or {}, preset_name)
        options: dict[str, Any] = {
            "default": argparse.SUPPRESS, "dest": entry.name, "help": text.strip().replace("%", "%%"),
        }
        if isinstance(default, bool):
            options["action"] = "store_true"
        else:
            options["metavar"] = entry.name.rpartition("_")[2].upper()
            if isinstance(default, tuple):
                options["nargs"] = "+"
        group.add_argument(f"--{entry.name.replace('_', '-')}", **options)


def settings_text(
    kind: type, prefix: str, preset: Mapping[str, Any] | None = None, preset_name: str = "", width: int = 110
) -> str:
    """The settings of a dataclass as help lines, `  --optim.base_lr  Learning rate... (default: 0.2)`.

    Args:
        kind: The dataclass.
        prefix: Of each name, such as `optim.`.
        preset: Dotted setting -> value that a preset gives it: shown instead of the default.
        preset_name: Of that preset.
        width: Of a line, in characters.
    """
    documented = attribute_docs(kind)
    lines = []
    for entry in dataclasses.fields(kind):
        name = f"{prefix}{entry.name}"
        words = documented.get(entry.name, "") + shown_default(name, default_of(entry), preset or {}, preset_name)
        start = f"  --{name}  "
        lines.append(textwrap.fill(words.strip(), width, initial_indent=start.ljust(30), subsequent_indent=" " * 30))
    return "\n".join(lines)


def scale_settings(scale: str) -> dict[str, Any]:
    """Dotted setting -> value of a shipped scale preset."""
    # The scale is the first layer, whatever method and domain follow.
    return dict(flatten(preset_layers(scale, "byol", domains()[0].name, [])[0].values, set()))


def deeper_settings(preset: Mapping[str, Any], preset_name: str) -> str:
    """Settings of a run with a dot in their name, as one text: which there are depends on method and domain."""
    parts = ["Layers of settings, later ones win: defaults, --scale, method, domain, --config files, flags."]
    for entry in dataclasses.fields(RunConfig):
        kind: Any = entry.default_factory
        if dataclasses.is_dataclass(kind):
            title = (inspect.getdoc(kind) or "").partition(".")[0]
            parts.append(f"{title}:\n{settings_text(cast('type', kind), f'{entry.name}.', preset, preset_name)}")
    for found in domains():
        if not found.error:
            text = settings_text(load_domain(found.name).train_options, "views.")
            parts.append(f"Views of domain {found.name}:\n{text}")
    return "\n\n".join([*parts, "Settings of the method are --options.NAME; `sciencessl methods NAME` lists them."])


def shown_default(name: str, default: Any, preset: Mapping[str, Any], preset_name: str) -> str:
    """` (default: 128, from scale laptop)`, or an empty string where nothing is the default."""
    value = preset.get(name, default)
    if any(value is empty or (value == empty and type(value) is type(empty)) for empty in EMPTY):
        return ""
    words = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return f" (default: {words}{f', from {preset_name}' if name in preset else ''})"


def given(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The settings of a dataclass that were given as flags."""
    names = {entry.name for entry in dataclasses.fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def default_of(entry: dataclasses.Field[Any]) -> Any:
    """Default of a field, made where it has a factory; MISSING where it has none."""
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return entry.default


def attribute_docs(kind: type) -> dict[str, str]:
    """Name -> text of the `Attributes:` section of a class docstring, and of those of the classes that it extends.

    >>> class Example:
    ...     '''Nothing.
    ...
    ...     Attributes:
    ...         size: Side of a view
    ...             in pixels.
    ...     '''
    >>> attribute_docs(Example)
    {'size': 'Side of a view in pixels.'}
    """
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        section = text.partition("Attributes:\n")[2].partition("\n\n")[0]
        name = ""
        for line in section.splitlines():
            found = re.match(r" {4}(\w+): (.*)", line)
            if found:
                name = found[1]
                docs[name] = found[2]
            elif name:
                docs[name] += " " + line.strip()
    return docs


def split_settings(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words of a command that are no settings, and the settings: what has a dot, or an underscore in its name.

    Taken off before the flags are parsed, since the value of a word that a parser does not know could as well be an
    argument of its own.

    Args:
        arguments: Of the command line.
        names: Settings that have a flag too, which is written with dashes.

    >>> split_settings(["explain", "run", "--views.size", "96", "--json"], [])
    (['explain', 'run', '--json'], {'views.size': '96'})
    """
    rest: list[str] = []
    settings: list[str] = []
    place = rest
    for word in arguments:
        if re.match(r"-+[a-zA-Z]", word):
            name = word[2:].partition("=")[0]
            place = settings if "." in name or ("_" in name and name in names) else rest
        place.append(word)
    return rest, dotted_settings(settings)


def dotted_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """`--optim.base_lr 0.1 --views.area 0.2 0.8` -> names and values; dashes become underscores.

    Raises:
        ConfigError: For a value without a name.
    """
    settings: dict[str, Any] = {}
    name = ""
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            settings[name] = value if equals else True
        elif not name:
            raise ConfigError(f"unexpected {word!r}: settings are written --name value.")
        else:
            before = settings[name]
            settings[name] = word if before is True else [*(before if isinstance(before, list) else [before]), word]
    return settings
