"""Files into stores, and a look into them: `prepare`, `store`."""

from __future__ import annotations

import argparse

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
    return REFUSED if result.refused and not args.dry_run else DONE


def fill_store(parser: argparse.ArgumentParser) -> None:
    """Arguments of `store`."""
    parser.add_argument("action", choices=sorted(_ACTIONS),
                        help="what splits share; counts and columns; contact sheet; digests")
    parser.add_argument("store", metavar="STORE", help="folder of a store, or its URL (s3://...)")
    parser.add_argument("--out", default="", metavar="PATH",
                        help="show: PNG to write; audit: folder of its report (default: beside the store; the current "
                        "folder if that is remote)")
    parser.add_argument("--against", default="", metavar="STORE2",
                        help="audit: a store to be tested on, compared with train and val of this one")
    parser.add_argument("--group", default="", metavar="COLUMN",
                        help="audit: column whose values must not straddle splits (patient, source photograph)")
    parser.add_argument("--column", default="", help="show: column to write under each image")
    parser.add_argument("-n", type=int, default=36, help="show: number of images (default: 36)")
    add_json(parser)


def run_store(args: argparse.Namespace) -> int:
    """One of the actions on a store."""
    return _ACTIONS[args.action](args)


def _info(args: argparse.Namespace) -> int:
    from sciencessl.store.info import info, info_text

    found = info(args.store)
    emit(found, args.json, info_text(found))
    return DONE


def _show(args: argparse.Namespace) -> int:
    from sciencessl.store.remote import beside
    from sciencessl.store.show import show

    path = show(args.store, args.out or beside(args.store, ".png"), n=args.n, column=args.column or None)
    emit({"path": path}, args.json, f"contact sheet: {path}")
    return DONE


def _verify(args: argparse.Namespace) -> int:
    from sciencessl.store.verify import verify

    damage = verify(args.store)
    lines = [f"{entry.where}: {entry.what}" for entry in damage]
    emit(damage, args.json, "\n".join(lines) or f"{args.store}: every byte is as it was sealed")
    return FAILED if damage else DONE


def _audit(args: argparse.Namespace) -> int:
    from sciencessl.store import audit as auditing
    from sciencessl.store.audit_report import audit_text

    found = auditing.audit(args.store, args.against, args.group, args.out)
    emit(found, args.json, audit_text(found))
    return LEAK if found.verdict == auditing.LEAK else DONE


_ACTIONS = {"audit": _audit, "info": _info, "show": _show, "verify": _verify}
