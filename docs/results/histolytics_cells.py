"""Counts of cells train the Dirichlet head: is the composition of tiles in regions that were held out predicted?

    python docs/results/histolytics_cells.py --data DATA --work DIR

Blocks are cut here; everything else is done by the command line that users have. What is done is not done again. The
page lies beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.store.reader import Store

CROPS = {"nest": ("hgsc_nest.jpg", "hgsc_nest.parquet"),
         "stroma": ("hgsc_stromal_he.jpg", "hgsc_stromal_cells.parquet")}
BLOCKS, BLOCK_PX, TILE_PX = 3, 500, 100
CLASSES = ("connective", "inflammatory", "neoplastic")
SEEDS = (1, 2, 3)
STEPS = 250
ABOUT = """
Two H&E crops of 1,500 px with outlines of their nuclei (histolytics, BSD-3) are cut into nine blocks each. A block is a
slide of one level; three of each crop, on a diagonal, are held out. Cells are counted by `store label --from cells`,
the counts train the encoder with the Dirichlet-multinomial head (`pretrain --method labels_only --labels cells`), and
`predict` says what it expects of the tiles held out. `docs/results/histolytics_cells.py` does all of it.
"""
NOTES = """
NLL is of the counts under the predicted Dirichlet-multinomial, RMSE that of shares of cells over tiles and classes.
The first row is the best that one prediction for all tiles could do, fitted on the tiles held out themselves; in the
last two columns it is fitted on each crop by itself, so that telling the crops apart does not beat it. The scale of
the crops is not known; 0.5 um/px is a placeholder. Blocks of one crop are of one slide: this says nothing of other
patients.
"""


def main() -> None:
    """Do what is lacking, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the crops: hgsc_nest.jpg and its siblings")
    parser.add_argument("--work", type=Path, required=True, help="folder for blocks, store and runs")
    args = parser.parse_args()
    blocks = args.work / "blocks"
    if not (blocks / "manifest.csv").exists():
        cut_blocks(args.data, blocks)
    store = args.work / "cells.zarr"
    run(store, "prepare", "pathology", blocks, "--out", store, "--source", "slides", "--slide-mpp", "0.5",
        "--mpp", "native", "--tile-px", TILE_PX, "--tissue", "all")
    run(store / "tables" / "cells", "store", "label", store, blocks / "cells", "--from", "cells")
    for seed in SEEDS:
        folder = args.work / f"labels_only-{seed}"
        run(folder / "exported", "pretrain", "--data", store, "--out", folder, "--method", "labels_only",
            "--labels", "cells", "--steps", STEPS, "--batch", 32, "--backbone", "resnet10t", "--views.area", "0.5", "1",
            "--seed", seed, "--compute.precision", "float32", "--compute.memory_format", "channels_last")
        said = posteriors(args.work, seed)
        run(said / "calibration.json", "predict", folder, "--data", store, "--out", said)
    page = Path(__file__).with_suffix(".md")
    page.write_text("\n".join(lines(args.work, Store(store))) + "\n", encoding="utf-8")
    print(f"wrote {page}")


def cut_blocks(data: Path, out: Path) -> None:
    """Blocks as images, centres of nuclei as GeoJSON, and a manifest that holds out the diagonal of each crop."""
    (out / "cells").mkdir(parents=True, exist_ok=True)
    rows = []
    for crop, (image, nuclei) in CROPS.items():
        pixels, regions = cv2.imread(str(data / image)), read_annotations(data / nuclei)
        centres = np.array([region.centroid for region in regions])
        for y in range(BLOCKS):
            for x in range(BLOCKS):
                name, corner = f"{crop}_{x}{y}", np.array([x, y]) * BLOCK_PX
                here = np.flatnonzero(((centres >= corner) & (centres < corner + BLOCK_PX)).all(1)).tolist()
                features = [{"type": "Feature", "properties": {"classification": {"name": regions[i].class_name}},
                             "geometry": {"type": "Point", "coordinates": (centres[i] - corner).tolist()}}
                            for i in here]
                (out / "cells" / f"{name}.geojson").write_text(json.dumps(features))
                part = pixels[corner[1] : corner[1] + BLOCK_PX, corner[0] : corner[0] + BLOCK_PX]
                cv2.imwrite(str(out / f"{name}.png"), part)
                rows.append((name, name, "test" if x == y else "train"))
    with (out / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("slide", "patient", "split"), *rows])


def posteriors(work: Path, seed: int) -> Path:
    """Where the predictions of a run are."""
    return work / f"labels_only-{seed}-posteriors"


def run(finished: Path, *words: object) -> None:
    """One command, unless what it makes is there."""
    if not finished.exists():
        print("sciencessl", *words, flush=True)
        subprocess.run([sys.executable, "-m", "sciencessl", *map(str, words)], check=True)


def lines(work: Path, store: Store) -> Iterator[str]:
    """The page."""
    yield "# Cell counts train the Dirichlet head"
    yield ""
    yield from ABOUT.strip().splitlines()
    yield ""
    columns = [f"cells_{name}" for name in CLASSES]
    counts = np.stack([store.column(column) for column in columns], 1)
    test = (store.split_codes() == 2) & (counts.sum(1) > 0)
    nest = np.array([str(slide).startswith("nest") for slide in store.column("slide")])
    train = (store.split_codes() == 0) & (counts.sum(1) > 0)
    yield f"{train.sum()} tiles of {TILE_PX} px with a cell to learn from; {(test & nest).sum()} of the nest and"
    yield f"{(test & ~nest).sum()} of the stroma, with {int(counts[test].sum())} cells, are held out."
    yield f"ResNet-10t at 64 px from random weights, {STEPS} steps of 32 tiles, three seeds."
    yield ""
    yield "| | NLL, nats a tile | RMSE of shares | within the nest | within the stroma |"
    yield "|---|---|---|---|---|"
    share = counts[test] / counts[test].sum(1, keepdims=True)
    parts = [np.ones(len(share), bool), nest[test], ~nest[test]]
    means = [rmse(share[part], share[part].mean(0)) for part in parts]
    best = calibration(work, SEEDS[0])["baseline_nll"]
    yield f"| one prediction for all | {best:.3f} | {means[0]:.3f} | {means[1]:.3f} | {means[2]:.3f} |"
    ids = [name for name, kept in zip(store.ids, test, strict=True) if kept]
    for seed in SEEDS:
        table = pq.read_table(posteriors(work, seed) / "part-00000.parquet").to_pydict()
        place = {name: row for row, name in enumerate(table["id"])}
        said = np.stack([table[f"{column}_fraction"] for column in columns], 1)[[place[name] for name in ids]]
        errors = " | ".join(f"{rmse(share[part], said[part]):.3f}" for part in parts)
        yield f"| learned from counts, seed {seed} | {calibration(work, seed)['nll']:.3f} | {errors} |"
    yield ""
    yield from NOTES.strip().splitlines()


def calibration(work: Path, seed: int) -> dict[str, Any]:
    """What `predict` says of the one question on the tiles held out."""
    text = (posteriors(work, seed) / "calibration.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)["questions"][0]
    return found


def rmse(found: np.ndarray, said: np.ndarray) -> float:
    """Root of the mean squared difference."""
    return float(np.sqrt(((found - said) ** 2).mean()))


if __name__ == "__main__":
    main()
