"""Which training samples of a store to withdraw so that a few classes are common and the others rare.

    python docs/results/skew.py STORE --column class --common airplane bird --keep 0.05 --out DIR

Writes DIR/withdrawn.txt, ids for `sciencessl store remove STORE --ids`, and DIR/frequency.csv, every id of the store
with `common` or `rare`, for `sciencessl store label`. Samples of val and test stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sciencessl.store.reader import Store


def main() -> None:
    """Draw what stays of each rare class with one seed, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--column", required=True, help="of classes")
    parser.add_argument("--common", required=True, nargs="+", help="classes of which all stays")
    parser.add_argument("--keep", required=True, type=float, help="share of the training samples of each other class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    store = Store(args.store)
    classes, train = np.asarray(store.column(args.column)), store.split("train").all()
    rng = np.random.default_rng(args.seed)
    withdrawn: list[int] = []
    for name in sorted(set(classes[train].tolist()) - set(args.common)):
        own = rng.permutation(train[classes[train] == name])
        withdrawn += own[max(1, round(args.keep * len(own))):].tolist()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "withdrawn.txt").write_text("".join(f"{store.ids[i]}\n" for i in sorted(withdrawn)), encoding="utf-8")
    rows = [f"{store.ids[i]},{'common' if name in args.common else 'rare'}\n" for i, name in enumerate(classes)]
    (args.out / "frequency.csv").write_text("id,frequency\n" + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
