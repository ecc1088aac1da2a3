"""Shipped presets, as a list to read: what each sets, why, and how to ask for it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sciencessl.config import flatten
from sciencessl.layers import shipped
from sciencessl.registry import domain_preset, domains

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS = {
    "scale": "--scale {}", "method": "--method {}", "domain": "any store of domain {}", "recipe": "--config recipe/{}",
}  # fmt: skip
"""Kind of preset -> what brings it in, in the order of their layers."""


@dataclass(frozen=True)
class Preset:
    """One shipped preset.

    Attributes:
        kind: `scale`, `method`, `domain` or `recipe`.
        name: Such as `laptop`.
        use: What brings it in.
        about: The comment at the head of its file: what it is for, and where its values come from.
        settings: Dotted name -> value.
    """

    kind: str
    name: str
    use: str
    about: str
    settings: Mapping[str, Any]


def presets() -> list[Preset]:
    """All presets, in the order in which layers of settings are laid: a later one wins."""
    return [_read(kind, name, path) for kind in KINDS for name, path in _files(kind)]


def _files(kind: str) -> Iterator[tuple[str, Traversable]]:
    if kind == "domain":
        for entry in domains():
            path = None if entry.error else domain_preset(entry.name)
            if path is not None and path.is_file():
                yield entry.name, path
        return
    yield from shipped(kind).items()


def _read(kind: str, name: str, path: Traversable) -> Preset:
    text = path.read_text(encoding="utf-8")
    settings = dict(flatten(yaml.safe_load(text) or {}, set()))
    return Preset(kind, name, KINDS[kind].format(name), head_comment(text), settings)


def head_comment(text: str) -> str:
    """The comment lines that a file starts with, as one paragraph.

    >>> head_comment("# Small batches\\n# (ours).\\nbatch: 128  # of two views")
    'Small batches (ours).'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def presets_text(found: Sequence[Preset], width: int = 110) -> str:
    """One paragraph a preset: its name, how to ask for it, why it is as it is, and its settings, one a line."""
    return "\n\n".join(_paragraph(preset, width) for preset in found)


def _paragraph(preset: Preset, width: int) -> str:
    about = textwrap.fill(preset.about, width, initial_indent="  ", subsequent_indent="  ")
    longest = max((len(name) for name in preset.settings), default=0)
    settings = [f"    {name:<{longest}}  {shown(value)}" for name, value in preset.settings.items()]
    return "\n".join([f"{preset.kind} {preset.name}  ({preset.use})", about, *settings])


def shown(value: Any) -> str:
    """A value as one would write it in a file of settings.

    >>> shown((0.2, 1.0)), shown(True), shown(""), shown(1.5e-6)
    ('[0.2, 1.0]', 'true', "''", '1.5e-06')
    """
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True).removesuffix("...\n").strip()
