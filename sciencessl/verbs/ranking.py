"""What looks like what in a store: `rank`."""

from __future__ import annotations

import argparse

from sciencessl.verbs.output import DONE, add_json, emit


def fill_rank(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rank`."""
    parser.add_argument("run", metavar="RUN",
                        help="a finished run, weights by name as in transfer, a table of features, or a folder that "
                        "embed wrote: so several searches embed once")
    parser.add_argument("--data", required=True, metavar="STORE", help="a sealed store")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="folder for ranking.csv (rank, id, score, ra, dec), sheet.png and embeddings")
    parser.add_argument("--similar-to", nargs="+", default=[], metavar="ID",
                        help="samples most similar to any of these; what shows the same object is left out")
    parser.add_argument("--anomalies", action="store_true", help="samples that look least like any other")
    parser.add_argument("--n", type=int, default=100, help="samples to list (default: 100)")
    parser.add_argument("--split", default="all", choices=("all", "train", "val", "test"),
                        help="samples to rank (default: all)")
    parser.add_argument("--find", default="", metavar="COLUMN=VALUE|TASK=CLASS",
                        help="also say how many labelled samples of a class are in the first --n labelled ones, beside "
                        "random encoders and chance")
    parser.add_argument("--random-encoders", type=int, default=5, metavar="N",
                        help="that --find compares with, of each of two variants (default: 5)")
    parser.add_argument("--keep", nargs="+", default=[], metavar="COLUMN",
                        help="columns of the store to list too; all for every one")
    parser.add_argument("--dry-run", action="store_true", help="count samples, time one batch; write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace another ranking in --out")
    add_json(parser)


def run_rank(args: argparse.Namespace) -> int:
    """Similar samples, or strange ones."""
    from sciencessl.evaluate.rank import rank
    from sciencessl.evaluate.ranking import ranking_text

    result = rank(
        args.run, args.data, args.out, similar_to=args.similar_to, anomalies=args.anomalies, n=args.n,
        split=args.split, find=args.find, random_encoders=args.random_encoders, keep=args.keep, dry_run=args.dry_run,
        overwrite=args.overwrite,
    )
    emit(result, args.json, ranking_text(result))
    return DONE
