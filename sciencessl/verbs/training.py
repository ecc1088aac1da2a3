"""Pretraining and its settings: `pretrain`, `config explain`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sciencessl.config import RunConfig
from sciencessl.errors import ConfigError
from sciencessl.flags import add_settings, deeper_settings, given, scale_settings
from sciencessl.layers import scales
from sciencessl.plain import plain
from sciencessl.verbs.launch import launch
from sciencessl.verbs.output import DONE, REQUEUE, add_accept_leak, add_json, emit, teller

if TYPE_CHECKING:
    from sciencessl.train.forecast import RunEstimate

SCALE = "laptop"


def fill_pretrain(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pretrain`; settings with a dot in their name are taken off before, and told in the epilog."""
    parser.usage = "%(prog)s --data STORE... --out RUN (--minutes M | --epochs E | --steps S) [settings]"
    parser.add_argument("--data", nargs="+", default="", metavar="STORE", help="a sealed store, from which the domain "
                        "is known, or several of one domain and equal fields (see --sampling.rates)")
    parser.add_argument("--out", default="", metavar="RUN", help="run folder")
    _add_layers(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out exactly where it stopped")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    parser.add_argument("--dry-run", action="store_true", help="estimate memory, steps and time; write nothing")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="train in N processes on this machine "
                        "(default: one for each GPU, or one); under torchrun or srun those that they start. With "
                        "--dry-run: count the memory of N anywhere")
    add_accept_leak(parser)
    add_json(parser)
    preset = scale_settings(SCALE)
    add_settings(parser, RunConfig, "settings", ("data", "method"), preset, f"scale {SCALE}")
    parser.epilog = f"{deeper_settings(preset, f'scale {SCALE}')}\n\n{parser.epilog}"


def _add_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="", help="see `sciencessl methods`, or FILE.py:NAME (default: the one that "
                        "--config names, or byol)")
    parser.add_argument("--scale", default=SCALE, help=f"preset of settings: {', '.join(scales())} (default: {SCALE})")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML settings, or recipe/NAME")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was given as a setting, with and without a dot in its name."""
    plain = {name: value for name, value in given(args, RunConfig).items() if name not in ("data", "method")}
    return {**plain, **args.settings}


def run_pretrain(args: argparse.Namespace) -> int:
    """A store -> a run; one that was stopped asks to be queued again."""
    from sciencessl.train.forecast import RunEstimate
    from sciencessl.train.place import find_place
    from sciencessl.train.run import pretrain, requested

    if not (args.data or args.resume):
        raise ConfigError("--data is missing: name the store to train on, such as one made by `sciencessl prepare`.")
    asked = (args.data, args.out, args.method, args.scale, args.config, _settings(args), args.resume, args.overwrite,
             args.dry_run)
    if (processes := _processes(args)) > 1 and not args.dry_run:
        requested(*asked)  # says what is wrong once, and before there are processes
        return launch(processes, args.arguments)
    result = pretrain(*asked, tell=teller(args), accept_leak=args.accept_leak, processes=args.processes)
    if find_place().rank:
        return DONE  # the first one says what became of all: at another code a launcher would end it, while it writes
    if isinstance(result, RunEstimate):
        _emit_estimate(result, args)
        return DONE
    state = "finished" if result.finished else "stopped with a checkpoint; continue with --resume"
    taken = f"{result.steps} steps, {result.images:,} images, {result.seconds:.0f} s"
    emit(result, args.json, f"{state}: {taken}; {result.run}")
    return DONE if result.finished else REQUEUE


def _processes(args: argparse.Namespace) -> int:
    """How many processes this command starts: none where a launcher has started it already."""
    import torch

    from sciencessl.train.place import NOWHERE, find_place

    if find_place() != NOWHERE:
        return 1
    if args.processes < 0:
        raise ConfigError(f"--processes is {args.processes}; it must be 1 or more, or 0 for one each GPU.")
    gpus = 0 if _settings(args).get("compute.device") == "cpu" else torch.cuda.device_count()
    return args.processes or max(1, gpus)


def _emit_estimate(estimate: RunEstimate, args: argparse.Namespace) -> None:
    from sciencessl.verbs.dry_run import estimate_text, start_commands

    commands = start_commands(estimate, args.arguments, args.out)
    emit({**plain(estimate), "start": commands}, args.json, estimate_text(estimate, commands))


def fill_config(parser: argparse.ArgumentParser) -> None:
    """Arguments of `config explain`: those of `pretrain` that decide settings, and what to explain."""
    parser.usage = "%(prog)s explain (--data STORE | --domain NAME | RUN) [--changed] [settings]"
    parser.add_argument("action", choices=("explain",), help="show each setting and the layer that set it")
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="a run folder: what it ran with")
    parser.add_argument("--data", nargs="+", default="", metavar="STORE", help="as `pretrain` would set it for this "
                        "store, or for several")
    parser.add_argument("--domain", default="", metavar="NAME", help="the same without a store")
    _add_layers(parser)
    parser.add_argument("--changed", action="store_true", help="only settings that differ from the default")
    add_json(parser)
    add_settings(parser, RunConfig, "settings", ("data", "method"), scale_settings(SCALE), f"scale {SCALE}")
    parser.epilog = f"Settings of optimiser, views and method as in `sciencessl pretrain --help`.\n\n{parser.epilog}"


def run_config(args: argparse.Namespace) -> int:
    """Settings, their values and the layers that set them."""
    from sciencessl.explanation import explain, explanation_text

    rows = explain(
        args.run, args.data, args.domain, args.method, args.scale, args.config, _settings(args), changed=args.changed
    )
    emit(rows, args.json, explanation_text(rows))
    return DONE
