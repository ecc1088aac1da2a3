"""What there is: `domains`, `methods`, `presets`, `backbones`."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sciencessl.errors import RegistryError, did_you_mean
from sciencessl.flags import attribute_docs, default_of, settings_text
from sciencessl.registry import MethodEntry, domains, load_method, method_entry, methods
from sciencessl.verbs.output import DONE, add_json, emit

if TYPE_CHECKING:
    from sciencessl.presets import Preset


def fill_list(parser: argparse.ArgumentParser) -> None:
    """Arguments of a verb that lists everything."""
    add_json(parser)


def run_domains(args: argparse.Namespace) -> int:
    """Registered domains, broken ones with their error."""
    entries = domains()
    width = max(len(entry.name) for entry in entries)
    lines = [f"{e.name:<{width}}  {e.title or f'BROKEN: {e.error}'}  [{e.origin}]" for e in entries]
    emit(list(entries), args.json, "\n".join(lines))
    return DONE


def fill_methods(parser: argparse.ArgumentParser) -> None:
    """Arguments of `methods`."""
    parser.add_argument("name", nargs="?", default="", help="show the settings of this method, or of FILE.py:NAME")
    add_json(parser)


def run_methods(args: argparse.Namespace) -> int:
    """Registered methods, or one of them with its settings."""
    if args.name:
        return _run_method(args.name, args.json)
    entries = methods()
    emit(entries, args.json, methods_text(entries))
    return DONE


def _run_method(name: str, as_json: bool) -> int:
    entry, kind = method_entry(name), load_method(name)
    documented = attribute_docs(kind.Options)
    options = [{"name": f"options.{field.name}", "default": default_of(field), "about": documented.get(field.name, "")}
               for field in dataclasses.fields(kind.Options)]
    preset = _preset(name)
    settings = settings_text(kind.Options, "options.", preset.settings if preset else {}, f"method {name}")
    lines = [
        entry.title, f"  {entry.paper}; {entry.status}; {_views(entry)}; cost {entry.cost:.3g} of BYOL's  "
        f"[{entry.origin}]", settings or "  It has no settings of its own.",
    ]
    if preset:
        lines += ["", *_preset_lines(preset)]
    emit({**dataclasses.asdict(entry), "options": options, "preset": preset and preset.settings}, as_json,
         "\n".join(lines))
    return DONE


def _preset(method: str) -> Preset | None:
    from sciencessl.presets import presets

    return next((found for found in presets() if (found.kind, found.name) == ("method", method)), None)


def _preset_lines(preset: Preset, width: int = 110) -> list[str]:
    """What the preset of a method sets, whether an option of the method or of its views, and why."""
    values = ", ".join(f"{setting} {value}" for setting, value in preset.settings.items())
    return textwrap.wrap(f"Its preset sets {values}.", width) + textwrap.wrap(preset.about, width)


def methods_text(entries: Sequence[MethodEntry], width: int = 120) -> str:
    """A table of methods, broken ones with their error, and what its columns say."""
    longest = max(len(entry.name) for entry in entries)
    starts = {e.name: f"{e.name:<{longest}}  {e.cost:4.2f}  {_views(e, short=True):<5}  {e.status:<13}  "
              for e in entries}
    gap = " " * (longest + 28)
    lines = [f"{'method':<{longest}}  {'cost':<4}  views  {'status':<13}  what it changes"]
    for e in entries:
        origin = "" if e.origin == "built in" else f" [{e.origin}]"
        if e.error:
            lines.append(textwrap.fill(f"BROKEN: {e.error}{origin}", width, initial_indent=f"{e.name:<{longest}}  ",
                                       subsequent_indent=gap))
            continue
        lines.append(textwrap.fill(f"{e.title} ({e.paper}){origin}", width, initial_indent=starts[e.name],
                                   subsequent_indent=gap))
    legend = (
        "cost: operations of a step with a large encoder over BYOL's. views: of a sample, that it needs; + where it "
        "learns from more, small ones among them (multi-crop). status: verified in official code, reconstructed from "
        "the paper, or ours. Settings of one: sciencessl methods NAME"
    )
    return "\n".join([*lines, "", textwrap.fill(legend, width)])


def _views(entry: MethodEntry, short: bool = False) -> str:
    if short:
        return f"{entry.n_views}{'+' if entry.multi_crop else ''}"
    return f"{entry.n_views} view(s) of a sample{' or more, small ones too' if entry.multi_crop else ''}"


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
