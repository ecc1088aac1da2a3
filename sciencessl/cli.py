"""The command line: parse, call the function of the same name, print. No logic lives here.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some inputs were refused, 75 checkpointed for requeue.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sciencessl import __version__
from sciencessl.config import RunConfig, leaf_names, scales
from sciencessl.errors import ConfigError, RegistryError, SciencesslError, did_you_mean
from sciencessl.flags import add_settings, deeper_settings, dotted_settings, given, scale_settings, settings_text
from sciencessl.plain import plain
from sciencessl.registry import domains, load_domain, load_method, methods, prepare_settings

DONE, FAILED, USAGE, REFUSED, REQUEUE = 0, 1, 2, 3, 75
SCALE = "laptop"

EXAMPLES = """examples:
  sciencessl demo                                       the whole path on a synthetic survey, minutes on two cores
  sciencessl prepare galaxy stamps/ --out gz.zarr       files -> store (a catalogue in the folder is found)
  sciencessl pretrain --data gz.zarr --out runs/byol --minutes 10
  sciencessl transfer runs/byol --data gz.zarr --task morphology --labels 50 250 750 --out runs/byol/transfer
  sciencessl report runs/byol
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        close = did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        if "required: SOURCE" in message:
            message += ". Give it first: an option of several values takes all words that follow it"
        end = "" if message.endswith("?") else "."
        raise ConfigError(f"{message}{end}{close} See `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code; errors that we raise on purpose are shown without a traceback."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        return _dispatch(arguments)
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ConfigError, RegistryError) as error:
        return _complain(error, USAGE)
    except (SciencesslError, OSError) as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped (pretrain: add --resume)", file=sys.stderr)
        return 130


def _complain(error: Exception, code: int) -> int:
    print(f"sciencessl: error: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", []):
        print(f"  {note}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    parser, verbs = _parsers(arguments)
    known, extra = parser.parse_known_args(arguments)
    if known.verb is None:
        parser.print_help()
        return DONE
    verb = verbs[known.verb]
    if known.verb == "pretrain":
        known.settings = dotted_settings(extra)
        extra = [f"--{name.replace('_', '-')}" for name in known.settings if "." not in name and name not in _LEAVES]
    if extra:
        _refuse(verb, extra)
    result: int = known.function(known)
    return result


_LEAVES = leaf_names(RunConfig)


def _refuse(verb: _Parser, extra: Sequence[str]) -> NoReturn:
    """Words that are no argument of a verb; those without dashes were most likely meant to stand beside others."""
    if extra[0].startswith("-"):
        flags = [flag for action in verb._actions for flag in action.option_strings]
        verb.error(f"there is no option {extra[0]}.{did_you_mean(extra[0].partition('=')[0], flags)}")
    verb.error(f"unexpected {' '.join(extra)!r}. Give all words without -- together, before the options")


def _parsers(arguments: Sequence[str]) -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="sciencessl", description="From survey tiles, slides or a crawl to a self-supervised model, and what it "
        "bought: honest few-label curves.", epilog=EXAMPLES, formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"sciencessl {__version__}")
    group = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    verbs: dict[str, _Parser] = {}
    for name, (summary, example, fill, function) in VERBS.items():
        verb = group.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"example:\n  {example}",
            formatter_class=_Help, allow_abbrev=False,
        )
        if name in arguments:
            fill(verb)
        verb.set_defaults(function=function)
        verbs[name] = verb
    return parser, verbs


def _emit(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(plain(value), indent=1) if as_json else text)


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _fill_list(parser: argparse.ArgumentParser) -> None:
    _json_flag(parser)


def _domains(args: argparse.Namespace) -> int:
    return _list_entries(domains(), args.json)


def _methods(args: argparse.Namespace) -> int:
    preset = scale_settings(SCALE)

    def options(name: str) -> str:
        return settings_text(load_method(name).Options, "options.", preset, f"scale {SCALE}")

    return _list_entries(methods(), args.json, options)


def _list_entries(entries: Sequence[Any], as_json: bool, more: Callable[[str], str] = lambda _: "") -> int:
    width = max(len(entry.name) for entry in entries)
    lines = []
    for e in entries:
        lines.append(f"{e.name:<{width}}  {e.title or f'BROKEN: {e.error}'}  [{e.origin}]")
        if not e.error and more(e.name):
            lines.append(more(e.name))
    _emit(list(entries), as_json, "\n".join(lines))
    return DONE


def _fill_backbones(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'regnety*'")
    _json_flag(parser)


def _backbones(args: argparse.Namespace) -> int:
    from sciencessl.backbones.timm_backbones import list_backbones

    names = list_backbones(args.pattern)
    if not names:
        raise RegistryError(f"no backbone matches {args.pattern!r}.{did_you_mean(args.pattern, list_backbones())}")
    _emit(names, args.json, "\n".join(names))
    return DONE


def _fill_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", nargs="?", default="galaxy", help="galaxy (default), pathology, web or a plug-in")
    parser.add_argument("--out", default="demo", help="folder; an earlier demo there is replaced (default: demo)")
    parser.add_argument("--samples", type=int, default=1500, help="synthetic samples (default: 1500)")
    parser.add_argument("--minutes", type=float, default=2.5, help="length of pretraining (default: 2.5)")


def _demo(args: argparse.Namespace) -> int:
    from sciencessl.demonstration import demo

    demo(args.domain, args.out, args.samples, args.minutes)
    return DONE


def _fill_prepare(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s DOMAIN SOURCE [SOURCE ...] --out STORE [settings]"
    parser.add_argument("domain", metavar="DOMAIN", help="galaxy, pathology, web... see `sciencessl domains`")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, file, 'quoted glob' or zip")
    parser.add_argument("--out", required=True, metavar="STORE", help="the store, usually NAME.zarr")
    parser.add_argument("--dry-run", action="store_true", help="estimate samples, bytes and time; write nothing")
    _json_flag(parser)
    add_settings(parser, prepare_settings(), "settings")
    for entry in domains():
        if not entry.error:
            add_settings(parser, load_domain(entry.name).prepare_options, f"settings of domain {entry.name}")


def _prepare(args: argparse.Namespace) -> int:
    from sciencessl.preparation import estimate_text, prepare, report_text

    settings = given(args, prepare_settings()) | given(args, load_domain(args.domain).prepare_options)
    result = prepare(args.domain, args.sources, args.out, settings, dry_run=args.dry_run)
    _emit(result, args.json, estimate_text(result) if args.dry_run else report_text(result))
    return REFUSED if result.refused and not args.dry_run else DONE


def _fill_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("info", "verify", "show"), help="counts and columns; digests; contact sheet")
    parser.add_argument("store", metavar="STORE", help="folder of a store")
    parser.add_argument("--out", default="", metavar="PNG", help="show: file to write (default: beside the store)")
    parser.add_argument("--column", default="", help="show: column to write under each image")
    parser.add_argument("-n", type=int, default=36, help="show: number of images (default: 36)")
    _json_flag(parser)


def _store(args: argparse.Namespace) -> int:
    return {"info": _store_info, "verify": _store_verify, "show": _store_show}[args.action](args)


def _store_info(args: argparse.Namespace) -> int:
    from sciencessl.store.info import info, info_text

    found = info(args.store)
    _emit(found, args.json, info_text(found))
    return DONE


def _store_verify(args: argparse.Namespace) -> int:
    from sciencessl.store.verify import verify

    damage = verify(args.store)
    lines = [f"{entry.where}: {entry.what}" for entry in damage]
    _emit(damage, args.json, "\n".join(lines) or f"{args.store}: every byte is as it was sealed")
    return FAILED if damage else DONE


def _store_show(args: argparse.Namespace) -> int:
    from sciencessl.store.show import show

    out = Path(args.out) if args.out else Path(args.store).with_suffix(".png")
    path = show(args.store, out, n=args.n, column=args.column or None)
    _emit({"path": path}, args.json, f"contact sheet: {path}")
    return DONE


def _fill_pretrain(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --data STORE --out RUN (--minutes M | --epochs E | --steps S) [settings]"
    parser.add_argument("--data", default="", metavar="STORE", help="a sealed store; the domain is known from it")
    parser.add_argument("--out", default="", metavar="RUN", help="run folder")
    parser.add_argument("--method", default="byol", help="see `sciencessl methods`, or FILE.py:NAME (default: byol)")
    parser.add_argument("--scale", default=SCALE, help=f"preset of settings: {', '.join(scales())} (default: {SCALE})")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML settings, or recipe/NAME")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out exactly where it stopped")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    parser.add_argument("--dry-run", action="store_true", help="estimate memory, steps and time; write nothing")
    _json_flag(parser)
    preset = scale_settings(SCALE)
    add_settings(parser, RunConfig, "settings", ("data", "method"), preset, f"scale {SCALE}")
    parser.epilog = "\n\n".join([
        deeper_settings(preset, f"scale {SCALE}"),
        "example:\n  sciencessl pretrain --data gz.zarr --out runs/hybrid --minutes 10 --labels smooth-or-featured "
        "--views.size 96",
    ])


def _pretrain(args: argparse.Namespace) -> int:
    from sciencessl.train.estimate import RunEstimate
    from sciencessl.train.run import pretrain

    if not (args.data or args.resume):
        raise ConfigError("--data is missing: name the store to train on, such as one made by `sciencessl prepare`.")
    settings = {name: value for name, value in given(args, RunConfig).items() if name not in ("data", "method")}
    tell: Callable[[str], None] = (lambda line: print(line, file=sys.stderr)) if args.json else print
    result = pretrain(
        args.data, args.out, args.method, args.scale, args.config, settings | args.settings, resume=args.resume,
        overwrite=args.overwrite, dry_run=args.dry_run, tell=tell,
    )
    if isinstance(result, RunEstimate):
        _emit(result, args.json, _run_estimate_text(result))
        return DONE
    state = "finished" if result.finished else "stopped with a checkpoint; continue with --resume"
    taken = f"{result.steps} steps, {result.images:,} images, {result.seconds:.0f} s"
    _emit(result, args.json, f"{state}: {taken}; {result.run}")
    return DONE if result.finished else REQUEUE


def _run_estimate_text(result: Any) -> str:
    return (
        f"{result.steps} steps, about {result.seconds / 60:.1f} minutes; {result.parameters / 1e6:.1f} M trainable "
        f"parameters, {result.state_bytes / 2**20:.0f} MiB of weights, gradients, optimiser state and target; "
        f"{result.precision}, {result.memory_format}; {result.operations_per_image / 1e9:.2f} GFLOP an image"
    )


def _fill_embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument("--data", required=True, metavar="STORE", help="a sealed store")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for Parquet shards")
    parser.add_argument("--split", default="all", choices=("all", "train", "val", "test"),
                        help="samples to embed (default: all)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"),
                        help="of the stored values (default: float32)")
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings of something else in --out")
    _json_flag(parser)


def _embed(args: argparse.Namespace) -> int:
    from sciencessl.evaluate.embed import embed

    result = embed(args.run, args.data, args.out, split=args.split, dtype=args.dtype, overwrite=args.overwrite)
    _emit(result, args.json, f"{result.samples} embeddings of width {result.features} in {result.shards} shards "
          f"({result.computed} computed now, {result.seconds:.1f} s): {result.out}")
    return DONE


def _fill_transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN",
                        help="finished runs, timm:NAME@FILE, or tables of features with ids")
    parser.add_argument("--data", required=True, metavar="STORE", help="a sealed store with the task's labels")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for table, plot, subsets and cached fits")
    parser.add_argument("--task", default="", help="a task of the domain (may be left out when there is one)")
    parser.add_argument("--labels", nargs="+", default=[], metavar="N",
                        help="budgets: 50, 20/class, 1%%, '5 patients', all (default: those of the task)")
    parser.add_argument("--arms", nargs="+", default=["frozen", "knn", "random"], metavar="ARM",
                        help="frozen: logistic regression; knn; random: the former on random encoders; finetune; "
                        "scratch: the same from fresh weights (default: frozen knn random)")
    parser.add_argument("--subsets", type=int, default=10, metavar="N", help="label subsets a budget (default: 10)")
    parser.add_argument("--random-encoders", type=int, default=5, metavar="N",
                        help="encoders in the random arm (default: 5)")
    parser.add_argument("--draw", default="stratified", choices=("stratified", "random"),
                        help="how label subsets are drawn (default: stratified by class)")
    parser.add_argument("--finetune-subsets", type=int, default=3, metavar="N",
                        help="label subsets a budget of finetune and scratch (default: 3)")
    parser.add_argument("--max-steps", type=int, default=300, metavar="N", help="steps of a training (default: 300)")
    parser.add_argument("--stages", type=int, metavar="N",
                        help="last stages that finetune trains; 0: the head alone (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="count fits and images, estimate hours; write nothing")
    _json_flag(parser)


def _transfer(args: argparse.Namespace) -> int:
    from sciencessl.evaluate.results import TransferEstimate
    from sciencessl.evaluate.tables import estimate_text, table_text
    from sciencessl.evaluate.transfer import transfer

    result = transfer(
        args.runs, args.data, args.out, task=args.task, labels=args.labels, arms=args.arms, subsets=args.subsets,
        random_encoders=args.random_encoders, draw=args.draw, dry_run=args.dry_run, stages=args.stages,
        finetune_subsets=args.finetune_subsets, max_steps=args.max_steps,
    )
    if isinstance(result, TransferEstimate):
        _emit(result, args.json, estimate_text(result))
        return DONE
    done = f"{result.fits} fits, {result.seconds:.0f} s: {result.out} (models of the largest budget in its models/)"
    _emit(result.to_json(), args.json, f"{table_text(result)}\n{done}")
    return DONE


def _fill_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--transfer", nargs="+", default=[], metavar="DIR",
                        help="transfer folders (default: RUN/transfer*)")
    parser.add_argument("--data", default="", help="the store, where it has moved")
    _json_flag(parser)


def _report(args: argparse.Namespace) -> int:
    from sciencessl.evaluate.report import report

    page = report(args.run, [Path(folder) for folder in args.transfer], data=args.data)
    _emit({"report": page}, args.json, f"report: {page}")
    return DONE


Verb = tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]
VERBS: dict[str, Verb] = {
    "demo": ("run the whole path on synthetic data", "sciencessl demo pathology --out /tmp/demo", _fill_demo, _demo),
    "domains": ("list the fields of science that are installed", "sciencessl domains --json", _fill_list, _domains),
    "methods": ("list pretraining methods and their options", "sciencessl methods", _fill_list, _methods),
    "backbones": ("list encoder architectures", "sciencessl backbones 'regnety*'", _fill_backbones, _backbones),
    "prepare": ("turn files into a store", "sciencessl prepare galaxy stamps/ --out gz.zarr --resize-px 128",
                _fill_prepare, _prepare),
    "store": ("look into a store: what it holds, whether it is sound, what it looks like",
              "sciencessl store show gz.zarr --column class", _fill_store, _store),
    "pretrain": ("pretrain an encoder on a store", "", _fill_pretrain, _pretrain),
    "embed": ("write the embeddings of a store", "sciencessl embed runs/byol --data gz.zarr --out emb",
              _fill_embed, _embed),
    "transfer": ("draw few-label curves against random encoders",
                 "sciencessl transfer runs/byol --data gz.zarr --task morphology --labels 50 250 750 --out few",
                 _fill_transfer, _transfer),
    "report": ("write a run's HTML report", "sciencessl report runs/byol", _fill_report, _report),
}
