"""What there is: `domains`, `methods`, `presets`, `backbones`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from sciencessl.errors import RegistryError, did_you_mean
from sciencessl.flags import scale_settings, settings_text
from sciencessl.registry import Entry, domains, load_method, methods
from sciencessl.verbs.output import DONE, add_json, emit
from sciencessl.verbs.training import SCALE


def fill_list(parser: argparse.ArgumentParser) -> None:
    """Arguments of a verb that lists everything."""
    add_json(parser)


def run_domains(args: argparse.Namespace) -> int:
    """Registered domains, broken ones with their error."""
    return _list_entries(domains(), args.json)


def run_methods(args: argparse.Namespace) -> int:
    """Registered methods with their options."""
    preset = scale_settings(SCALE)

    def options(name: str) -> str:
        return settings_text(load_method(name).Options, "options.", preset, f"scale {SCALE}")

    return _list_entries(methods(), args.json, options)


def _list_entries(entries: Sequence[Entry], as_json: bool, more: Callable[[str], str] = lambda _: "") -> int:
    width = max(len(entry.name) for entry in entries)
    lines = []
    for e in entries:
        lines.append(f"{e.name:<{width}}  {e.title or f'BROKEN: {e.error}'}  [{e.origin}]")
        if not e.error and more(e.name):
            lines.append(more(e.name))
    emit(list(entries), as_json, "\n".join(lines))
    return DONE


def run_presets(args: argparse.Namespace) -> int:
    """Shipped presets: why they are as they are, and what they set."""
    from sciencessl.presets import presets, presets_text

    found = presets()
    emit(found, args.json, presets_text(found))
    return DONE


def fill_backbones(parser: argparse.ArgumentParser) -> None:
    """Arguments of `backbones`."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'regnety*'")
    add_json(parser)


def run_backbones(args: argparse.Namespace) -> int:
    """Names of architectures; none is an error that names the closest."""
    from sciencessl.backbones.timm_backbones import list_backbones

    names = list_backbones(args.pattern)
    if not names:
        raise RegistryError(f"no backbone matches {args.pattern!r}.{did_you_mean(args.pattern, list_backbones())}")
    emit(names, args.json, "\n".join(names))
    return DONE
