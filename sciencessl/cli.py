"""The command line: which verbs there are, how words become a call, and what a failure looks like.

Each verb lives in `sciencessl/verbs/`, and does no more than call the function of the same meaning and print.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some inputs were refused, 4 leak found, 75 checkpointed for
requeue.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from sciencessl import __version__
from sciencessl.config import RunConfig
from sciencessl.errors import ConfigError, FirstRankError, LeakError, RegistryError, SciencesslError, did_you_mean
from sciencessl.flags import split_settings
from sciencessl.layers import leaf_names
from sciencessl.verbs import data, evaluation, listing, ranking, start, training
from sciencessl.verbs.output import DONE, FAILED, LEAK, USAGE

EXAMPLES = """examples:
  sciencessl demo                                       the whole path on a synthetic survey, minutes on two cores
  sciencessl prepare galaxy stamps/ --out gz.zarr       files -> store (a catalogue in the folder is found)
  sciencessl pretrain --data gz.zarr --out runs/byol --minutes 10
  sciencessl transfer runs/byol --data gz.zarr --task morphology --labels 50 250 750 --out runs/byol/transfer
  sciencessl report runs/byol
"""


class Verb(NamedTuple):
    """One verb.

    Attributes:
        summary: One line, without a full stop.
        example: A command that works.
        fill: Adds its arguments to a parser.
        run: Does it; returns the exit code.
        settings: Whether it takes `--optim.base_lr 0.1` and the like, handed to `run` as `args.settings`.
    """

    summary: str
    example: str
    fill: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    settings: bool = False


VERBS: dict[str, Verb] = {
    "demo": Verb("run the whole path on synthetic data", "sciencessl demo pathology --out /tmp/demo",
                 start.fill_demo, start.run_demo),
    "domains": Verb("list the fields of science that are installed", "sciencessl domains --json",
                    listing.fill_list, listing.run_domains),
    "methods": Verb("list pretraining methods, or the settings of one", "sciencessl methods byol",
                    listing.fill_methods, listing.run_methods),
    "presets": Verb("list shipped settings, why they are so and what they set", "sciencessl presets",
                    listing.fill_list, listing.run_presets),
    "backbones": Verb("list encoder architectures", "sciencessl backbones 'regnety*'",
                      listing.fill_backbones, listing.run_backbones),
    "prepare": Verb("turn files into a store", "sciencessl prepare galaxy stamps/ --out gz.zarr --resize-px 128",
                    data.fill_prepare, data.run_prepare),
    "store": Verb("look into a store: what it holds, whether it is sound, what its splits share; give it labels",
                  "sciencessl store show gz.zarr --column class", data.fill_store, data.run_store),
    "pretrain": Verb("pretrain an encoder on a store",
                     "sciencessl pretrain --data gz.zarr --out runs/hybrid --minutes 10 --labels smooth-or-featured "
                     "--views.size 96", training.fill_pretrain, training.run_pretrain, settings=True),
    "config": Verb("explain settings: each value, and the layer that set it",
                   "sciencessl config explain --domain galaxy --config recipe/small_stamps --views.size 96 --changed",
                   training.fill_config, training.run_config, settings=True),
    "embed": Verb("write the embeddings of a store", "sciencessl embed runs/byol --data gz.zarr --out emb",
                  evaluation.fill_embed, evaluation.run_embed),
    "transfer": Verb("draw few-label curves against random encoders",
                     "sciencessl transfer runs/byol --data gz.zarr --task morphology --labels 50 250 750 --out few",
                     evaluation.fill_transfer, evaluation.run_transfer),
    "predict": Verb("write what a saved model, or runs that learned from votes, say of a store",
                    "sciencessl predict few/models/frozen-byol --data new.zarr --out predicted --keep ra dec",
                    evaluation.fill_predict, evaluation.run_predict),
    "rank": Verb("list the samples most similar to some, or the strangest of all, with a contact sheet",
                 "sciencessl rank runs/byol --data gz.zarr --out odd --anomalies", ranking.fill_rank, ranking.run_rank),
    "select": Verb("choose what volunteers should label next, and write it as a subject set",
                   "sciencessl select runs/hybrid --data gz.zarr --out next --n 500 --score bald",
                   evaluation.fill_select, evaluation.run_select),
    "compare": Verb("join transfers of several runs, methods and tasks into one table, with what pretraining cost",
                    "sciencessl compare runs/byol/transfer runs/hybrid/transfer --out runs/compared --match images",
                    evaluation.fill_compare, evaluation.run_compare),
    "report": Verb("write a run's HTML report", "sciencessl report runs/byol",
                   evaluation.fill_report, evaluation.run_report),
    "average": Verb("average encoders of runs or checkpoints, weight by weight",
                    "sciencessl average runs/byol --last 2 --out runs/byol-mean",
                    evaluation.fill_average, evaluation.run_average),
    "export": Verb("write a run's encoder for timm, with what it takes to use it",
                   "sciencessl export runs/byol --out byol-galaxies", evaluation.fill_export, evaluation.run_export),
    "doctor": Verb("check the environment: what a bug report should say", "sciencessl doctor",
                   start.fill_doctor, start.run_doctor),
}  # fmt: skip


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)
        self._action_max_length = 14  # argparse forgets that names of verbs are indented twice


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        close = did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        if "required: SOURCE" in message:
            message += ". Give it first: an option of several values takes all words that follow it"
        end = "" if message.endswith(("?", ".")) else "."
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
    except FirstRankError:
        return FAILED
    except (ConfigError, RegistryError) as error:
        return _complain(error, USAGE)
    except LeakError as error:
        return _complain(error, LEAK)
    except (SciencesslError, OSError) as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        if not _rank():
            print("interrupted; the same command goes on where it stopped (pretrain: add --resume)", file=sys.stderr)
        return 130


def _rank() -> int:
    """The number of this process among those of a run."""
    from sciencessl.train.place import find_place

    try:
        return find_place().rank
    except (ConfigError, ValueError):
        return 0


def _complain(error: Exception, code: int) -> int:
    rank = _rank()
    if rank and code in (USAGE, LEAK):
        return code  # found by every process: the first one says it
    print(f"sciencessl: {f'process {rank}: ' if rank else ''}error: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", []):
        print(f"  {note}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    parser, verbs = _parsers(arguments)
    given = list(arguments)
    settings: dict[str, Any] = {}
    if arguments and arguments[0] in VERBS and VERBS[arguments[0]].settings:
        arguments, settings = split_settings(arguments, leaf_names(RunConfig))
    known, extra = parser.parse_known_args(arguments)
    if known.verb is None:
        parser.print_help()
        return DONE
    if extra:
        _refuse(verbs[known.verb], extra)
    known.settings, known.arguments = settings, given
    return VERBS[known.verb].run(known)


def _refuse(verb: _Parser, extra: Sequence[str]) -> NoReturn:
    """Words that are no argument of a verb; those without dashes were most likely meant to stand beside others."""
    if extra[0].startswith("-"):
        verb.error(f"there is no option {extra[0]}.{did_you_mean(extra[0].partition('=')[0], _flags(verb))}")
    words = "Give all words without -- together, before the options; settings are written --name value"
    verb.error(f"unexpected {' '.join(extra)!r}. {words}")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a verb, and of its actions where it has some."""
    nested = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    deeper = [flag for parsers in nested for each in parsers for flag in _flags(each)]
    return [flag for action in parser._actions for flag in action.option_strings] + deeper


def _parsers(arguments: Sequence[str]) -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of all verbs, and that of each; only the verbs among the arguments are filled, which takes time."""
    parser = _Parser(
        prog="sciencessl", description="From survey tiles, slides or a crawl to a self-supervised model, and what it "
        "bought: honest few-label curves.", epilog=EXAMPLES, formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"sciencessl {__version__}")
    group = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    verbs: dict[str, _Parser] = {}
    for name, (summary, example, fill, _, _) in VERBS.items():
        verbs[name] = group.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"example:\n  {example}",
            formatter_class=_Help, allow_abbrev=False,
        )
        if name in arguments:
            fill(verbs[name])
    return parser, verbs
