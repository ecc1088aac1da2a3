"""Settings dataclasses as command-line flags: one place where a setting, its default and its documentation live."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

from sciencessl.errors import ConfigError


def add_settings(parser: argparse.ArgumentParser, kind: type, title: str, skip: Sequence[str] = ()) -> None:
    """Add a flag for every plain setting of a dataclass; nested dataclasses and names in `skip` are left out.

    Flags that are not given leave no trace in the namespace, so that lower layers keep their say.
    """
    group = parser.add_argument_group(title)
    documented = attribute_docs(kind)
    for entry in dataclasses.fields(kind):
        if entry.name in skip or dataclasses.is_dataclass(entry.default_factory):
            continue
        default = default_of(entry)
        text = documented.get(entry.name, "").replace("%", "%%")
        shown = "" if default in ("", (), None, False, dataclasses.MISSING) else f" (default: {default})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": entry.name, "help": text + shown}
        if isinstance(default, bool):
            options["action"] = "store_true"
        else:
            options["metavar"] = entry.name.rpartition("_")[2].upper()
            if isinstance(default, tuple):
                options["nargs"] = "+"
        group.add_argument(f"--{entry.name.replace('_', '-')}", **options)


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
    """Name -> text of the `Attributes:` section of a class docstring.

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
    text = inspect.getdoc(kind) or ""
    section = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    docs: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        found = re.match(r" {4}(\w+): (.*)", line)
        if found:
            name = found[1]
            docs[name] = found[2]
        elif name:
            docs[name] += " " + line.strip()
    return docs


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
