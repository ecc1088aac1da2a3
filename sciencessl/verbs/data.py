"""Files into stores, and a look into them: `prepare`, `store`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from sciencessl.errors import ConfigError
from sciencessl.flags import add_settings, given
from sciencessl.registry import domains, load_domain, prepare_settings
from sciencessl.verbs.output import DONE, FAILED, LEAK, REFUSED, add_json, emit


def fill_prepare(parser: argparse.ArgumentParser) -> None:
    """Arguments of `prepare`, with the settings of every domain."""
    names = ", ".join(entry.name for entry in domains())
    parser.usage = "%(prog)s DOMAIN SOURCE [SOURCE ...] --out STORE [settings]"
    parser.add_argument("domain", metavar="DOMAIN", help=f"{names}: see `sciencessl domains`")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, file, 'quoted glob' or zip")
    parser.add_argument("--out", required=True, metavar="STORE", help="the store, usually NAME.zarr")
    parser.add_argument("--dry-run", action="store_true", help="estimate samples, bytes and time; write nothing")
    add_json(parser)
    add_settings(parser, prepare_settings(), "settings")
    for entry in domains():
        if not entry.error:
            add_settings(parser, load_domain(entry.name).prepare_options, f"settings of domain {entry.name}")


def run_prepare(args: argparse.Namespace) -> int:
    """Files -> store; inputs that were refused have an exit code of their own."""
    from sciencessl.preparation import estimate_text, prepare, report_text

    settings = given(args, prepare_settings()) | given(args, load_domain(args.domain).prepare_options)
    result = prepare(args.domain, args.sources, args.out, settings, dry_run=args.dry_run)
    emit(result, args.json, estimate_text(result) if args.dry_run else report_text(result))
    # A task of an array that did its part has not failed: whoever finishes the store tells of what was refused.
    return REFUSED if getattr(result, "manifest_digest", "") and result.refused else DONE


class Action(NamedTuple):
    """One action of `store`.

    Attributes:
        summary: One line.
        run: Does it; returns the exit code.
        fill: Adds its own arguments to a parser.
    """

    summary: str
    run: Callable[[argparse.Namespace], int]
    fill: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def fill_store(parser: argparse.ArgumentParser) -> None:
    """Arguments of `store`: each action has its own."""
    group = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, action in ACTIONS.items():
        described = f"{action.summary[0].upper()}{action.summary[1:]}."
        each = group.add_parser(name, help=action.summary, description=described,
                                formatter_class=parser.formatter_class, allow_abbrev=False)
        each.add_argument("store", metavar="STORE", help="folder of a store, or its URL (s3://...)")
        action.fill(each)
        add_json(each)


def run_store(args: argparse.Namespace) -> int:
    """One of the actions on a store."""
    return ACTIONS[args.action].run(args)


def _info(args: argparse.Namespace) -> int:
    from sciencessl.store.info import info, info_text

    found = info(args.store)
    emit(found, args.json, info_text(found))
    return DONE


def _fill_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="", metavar="PATH", help="PNG to write (default: NAME.png beside the store)")
    parser.add_argument("--column", default="", help="column to write under each image")
    parser.add_argument("-n", type=int, default=36, help="number of images (default: 36)")
    parser.add_argument("--where", nargs="+", default=(), metavar="CONDITION",
                        help="only samples that meet any of these conditions on columns: 'pen>0.1' 'site=B2'")
    parser.add_argument("--stretch", default="asinh", metavar="KIND",
                        help="how flux is shown, by one rule for all: asinh (default), linear, log, percentile, lupton "
                        "or legacy; or per-stamp")


def _show(args: argparse.Namespace) -> int:
    from sciencessl.store.remote import beside
    from sciencessl.store.show import show

    path = show(args.store, args.out or beside(args.store, ".png"), n=args.n, column=args.column or None,
                stretch=args.stretch, where=args.where)
    emit({"path": path}, args.json, f"contact sheet: {path}")
    return DONE


def _verify(args: argparse.Namespace) -> int:
    from sciencessl.store.verify import verify

    damage = verify(args.store)
    lines = [f"{entry.where}: {entry.what}" for entry in damage]
    emit(damage, args.json, "\n".join(lines) or f"{args.store}: every byte is as it was sealed")
    return FAILED if damage else DONE


def _fill_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="", metavar="PATH", help="folder of its report (default: beside the store)")
    parser.add_argument("--against", default="", metavar="STORE2",
                        help="a store to be tested on, compared with train and val of this one")
    parser.add_argument("--group", default="", metavar="COLUMN",
                        help="column whose values must not straddle splits (patient, source photograph)")


def _audit(args: argparse.Namespace) -> int:
    from sciencessl.store import audit_record
    from sciencessl.store.audit import audit
    from sciencessl.store.audit_report import audit_text

    found = audit(args.store, args.against, args.group, args.out)
    emit(found, args.json, audit_text(found))
    return LEAK if found.verdict == audit_record.LEAK else DONE


LABEL_FLAGS = {
    "": ("id", "match_sky", "schema", "derived_from", "columns"),
    "zooniverse": ("id", "schema", "questions", "subjects", "add_to"),
    "regions": ("classes", "by_file", "rule", "min_fraction", "raters", "masks"),
    "cells": ("classes", "by_file"),
    "masks": ("classes",),
}
"""What `store label` reads, a table of its own or --from something -> the flags that it takes."""


def _fill_label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", help="CSV, Parquet, FITS or VOTable file whose rows name samples; "
                        "with --from an export, or a folder of annotations")
    parser.add_argument("--from", dest="origin", default="", choices=tuple(LABEL_FLAGS),
                        metavar="zooniverse|regions|cells|masks",
                        help="TABLE is a Zooniverse export, whose classifications or reductions are counted as votes; "
                        "or annotation files of slides, whose regions cover tiles, or whose cells are counted in them; "
                        "or label images named after samples or slides")
    _fill_table(parser)
    _fill_export(parser)
    _fill_drawn(parser)
    parser.add_argument("--name", default="", help="of the table in the store (default: labels; with --from votes, "
                        "region, cells or mask)")
    parser.add_argument("--note", default="", metavar="TEXT", help="where the values come from, in words")
    parser.add_argument("--overwrite", action="store_true", help="replace another table of that name")


def _fill_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", default="", metavar="COLUMN", help="column that names the samples (default: guessed)")
    parser.add_argument("--match-sky", type=float, default=None, metavar="ARCSEC",
                        help="join by RA and Dec instead of ids, one to one, at most so far apart")
    parser.add_argument("--schema", default="", metavar="NAME|FILE", help="label schema of vote counts")
    parser.add_argument("--derived-from", nargs="+", default=(), metavar="COL=A,B",
                        help="columns that a column was computed from, for what evaluation says of leaks")
    parser.add_argument("--columns", nargs="+", default=(), metavar="COLUMN",
                        help="columns to take (default: all that the rows of the store do not have)")


def _fill_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", default="", metavar="FILE",
                        help="YAML that maps an export's tasks and answers to those of a label schema")
    parser.add_argument("--subjects", default="", metavar="FILE",
                        help="subjects.csv of the project, for exports of reductions")
    parser.add_argument("--add-to", default="", metavar="TABLE",
                        help="a table of votes whose counts are added to those of an export, in the new table")


def _fill_drawn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", nargs="+", default=(), metavar="NAME[=OURS]",
                        help="classes of annotations to take and how to call them, the earlier going before where they "
                        "overlap (default: all, the rarer first)")
    parser.add_argument("--rule", default="majority", metavar="majority|centre|any",
                        help="a tile is of the class that covers most of it (default), its centre, or any of it")
    parser.add_argument("--min-fraction", type=float, default=None, metavar="SHARE",
                        help="share of the tile that its class must cover (default: 0.5 for a majority, else any)")
    parser.add_argument("--raters", action="store_true", help="several people annotated the same slides, in "
                        "SLIDE_RATER.geojson or RATER/SLIDE.geojson: count how many say which class")
    parser.add_argument("--masks", action="store_true", help="regions become a label image of each tile, which tasks "
                        "of kind dense learn from; needs --classes")
    parser.add_argument("--by-file", default="", metavar="CSV", help="columns file, slide and, if any, rater: which "
                        "slide each file is of, where its name does not say so")


def _check_label_flags(args: argparse.Namespace) -> None:
    for flag in dict.fromkeys(flag for flags in LABEL_FLAGS.values() for flag in flags):
        origins = [origin for origin, flags in LABEL_FLAGS.items() if flag in flags]
        takes = ["tables"] * ("" in origins) + [f"--from {'|'.join(filter(None, origins))}"] * any(origins)
        if flag not in LABEL_FLAGS[args.origin] and getattr(args, flag) not in ("", (), None, False, "majority"):
            what = f"--from {args.origin}" if args.origin else "a table"
            raise ConfigError(f"--{flag.replace('_', '-')} is for {' and '.join(takes)}, and means nothing for {what}.")


def _label(args: argparse.Namespace) -> int:
    from sciencessl.store.label import DEFAULT_NAME, label, label_text

    _check_label_flags(args)
    if args.origin:
        return _label_votes(args) if args.origin == "zooniverse" else _label_drawn(args)
    parents = {}
    for word in args.derived_from:
        column, _, names = word.rpartition("=")
        if not column or not names:
            raise ConfigError(f"--derived-from {word}: expected COLUMN=PARENT or COLUMN=PARENT,PARENT.")
        parents[column] = names.split(",")
    found = label(args.store, args.table, args.name or DEFAULT_NAME, args.id, args.schema, parents, args.note,
                  args.columns, args.overwrite, args.match_sky)
    emit(found, args.json, label_text(found))
    return DONE


def _label_drawn(args: argparse.Namespace) -> int:
    from sciencessl.store.drawn_labels import drawn_text, label_drawn

    found = label_drawn(args.store, args.table, args.origin, args.name, args.rule, args.min_fraction, args.classes,
                        args.raters, args.by_file, args.note, args.overwrite, args.masks)
    emit(found, args.json, drawn_text(found))
    return REFUSED if found.refused else DONE


def _label_votes(args: argparse.Namespace) -> int:
    from sciencessl.store.volunteers import DEFAULT_NAME, label_votes, votes_text

    if not args.questions:
        raise ConfigError("--from zooniverse needs --questions FILE.yaml, which maps the project's tasks and answers "
                          "to those of a label schema; docs/how-to/volunteers.md shows one.")
    found = label_votes(args.store, args.table, args.questions, args.name or DEFAULT_NAME, args.schema, args.id,
                        args.subjects, args.note, args.overwrite, args.add_to)
    emit(found, args.json, votes_text(found))
    return REFUSED if found.refused else DONE


def _fill_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of samples")
    parser.add_argument("--ids", dest="file", default="", metavar="FILE", help="text file with one id a line")
    parser.add_argument("--where", nargs="+", default=(), metavar="CONDITION",
                        help="withdraw what meets any of these conditions on columns: 'pen>0.1' 'site=B2' (quote them)")
    parser.add_argument("--reason", default="", metavar="TEXT",
                        help="why, in words; it stays beside the ids (default with --where: the conditions)")
    parser.add_argument("--dry-run", action="store_true", help="count, by split and condition; write nothing")


def _remove(args: argparse.Namespace) -> int:
    from sciencessl.store.removals import remove, remove_text

    found = remove(args.store, args.ids, args.reason, args.file, args.where, args.dry_run)
    emit(found, args.json, remove_text(found))
    return DONE


def _fill_compact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="NEW", help="the new store, usually NAME.zarr")
    parser.add_argument("--dry-run", action="store_true", help="count rows and bytes; write nothing")


def _compact(args: argparse.Namespace) -> int:
    from sciencessl.store.compact import compact, compact_text

    found = compact(args.store, args.out, args.dry_run)
    emit(found, args.json, compact_text(found))
    return DONE


def _fill_dedup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", nargs="+", default=("bytes", "pixels", "phash"), metavar="LEVEL",
                        help="what copies share: bytes, pixels, phash (default: all three)")
    parser.add_argument("--radius", type=int, default=3, metavar="BITS",
                        help="bits by which perceptual hashes of copies differ at most, up to 7 (default: 3)")
    parser.add_argument("--embeddings", default="", metavar="DIR", help="look for near embeddings too, of `embed`")
    parser.add_argument("--cosine", type=float, default=None, metavar="X",
                        help="above which embeddings are near (default: measured on the store)")
    parser.add_argument("--against", default="", metavar="STORE2", help="leave what is in this store")
    parser.add_argument("--keep", default="largest", metavar="RULE",
                        help="which one of a group is kept: largest (default), sharpest, first; test before train")
    parser.add_argument("--no-confirm", dest="confirm", action="store_false",
                        help="take near hashes for copies without looking at pixels")
    parser.add_argument("--out", default="", metavar="PATH", help="folder of the report (default: beside the store)")
    parser.add_argument("--remove", action="store_true", help="withdraw the copies")
    parser.add_argument("--dry-run", action="store_true", help="count; write nothing")


def _dedup(args: argparse.Namespace) -> int:
    from sciencessl.store.dedup import dedup
    from sciencessl.store.dedup_report import dedup_text

    found = dedup(args.store, args.against, args.by, args.radius, args.embeddings, args.cosine, args.keep, args.out,
                  confirm=args.confirm, remove=args.remove, dry_run=args.dry_run)
    emit(found, args.json, dedup_text(found))
    return DONE


def _fill_shuffle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="NEW", help="the new store, usually NAME.zarr")
    parser.add_argument("--seed", type=int, default=0, help="other rows for another seed (default: 0)")
    parser.add_argument("--memory-gib", type=float, default=2.0, metavar="GIB",
                        help="memory that payloads may take; the result is the same (default: 2)")
    parser.add_argument("--dry-run", action="store_true", help="count rows, bytes and scratch; write nothing")


def _shuffle(args: argparse.Namespace) -> int:
    from sciencessl.store.shuffle import shuffle, shuffle_text

    found = shuffle(args.store, args.out, args.seed, args.memory_gib, args.dry_run)
    emit(found, args.json, shuffle_text(found))
    return DONE


def _fill_curate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embeddings", required=True, metavar="DIR", help="folder that `embed` wrote for this store")
    parser.add_argument("--levels", nargs="+", default=["auto"], metavar="K",
                        help="clusters of each level from the lowest up, such as 1000 100 10 (default: auto, by the "
                        "number of samples)")
    parser.add_argument("--budget", type=float, default=0.2, metavar="N|FRACTION",
                        help="samples, or share of all, that clusters share evenly: the smaller, the more evenly they "
                        "come and the more often samples of rare ones (default: 0.2)")
    parser.add_argument("--name", default="curated", help="of the table in the store (default: curated)")
    parser.add_argument("--seed", type=int, default=0, help="other clusters for another seed (default: 0)")
    parser.add_argument("--out", default="", metavar="DIR",
                        help="contact sheets, and what a stopped call goes on from (default: NAME.curated beside the "
                        "store)")
    parser.add_argument("--dry-run", action="store_true", help="estimate time and memory; write nothing")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace another table of that name, and clusters of other embeddings, levels or seed")


def _curate(args: argparse.Namespace) -> int:
    from sciencessl.curate.curation import curate, curation_text

    if args.levels != ["auto"] and not all(word.isdecimal() for word in args.levels):
        raise ConfigError(f"--levels {' '.join(args.levels)}: expected auto, or whole numbers such as 1000 100 10.")
    levels = [int(word) for word in args.levels if word != "auto"]
    found = curate(args.store, args.embeddings, levels or "auto", args.budget, args.name, args.seed, args.out,
                   args.dry_run, args.overwrite)
    emit(found, args.json, curation_text(found))
    return DONE


ACTIONS: dict[str, Action] = {
    "audit": Action("look for samples that splits share, or another store", _audit, _fill_audit),
    "compact": Action("write a new store without the withdrawn samples", _compact, _fill_compact),
    "curate": Action("weigh samples so that clusters of embeddings come evenly", _curate, _fill_curate),
    "dedup": Action("find copies of samples, and withdraw all but one of each", _dedup, _fill_dedup),
    "info": Action("counts, columns, tables and how well samples are mixed", _info),
    "label": Action("put a table of labels that came later beside the pixels", _label, _fill_label),
    "remove": Action("withdraw samples: no reader gives them from then on", _remove, _fill_remove),
    "show": Action("draw a contact sheet of random samples", _show, _fill_show),
    "shuffle": Action("deal all samples into new rows, each a random draw", _shuffle, _fill_shuffle),
    "verify": Action("read every byte and name what is not as it was sealed", _verify),
}
