"""Looking at all slides of a source, each once, in processes that a bad one may end."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from sciencessl.data_prep.pool import Engine, InProcess, Processes, WorkerDied, run_all
from sciencessl.data_prep.slides.scan import (
    READY,
    SlideFile,
    SlideScan,
    read_scan,
    scan_key,
    scan_slide,
    write_scan,
)
from sciencessl.data_prep.slides.settings import SlideSettings
from sciencessl.errors import StoreError
from sciencessl.machine import cores
from sciencessl.monitor.throughput import Progress
from sciencessl.store.files import clear_os_errors, write_atomic

TRY_AGAIN = ("crashed", "unreadable", "corrupt")
"""States that may be of the machine rather than of the slide: memory, rights, a network."""
FOLDER_SUFFIX = ".slides"
STATES_FILE = "slides.csv"


def slides_folder(out: Path) -> Path:
    """Where what is known of the slides of a store is kept: `NAME.slides` beside `NAME.zarr`."""
    return out.with_name(f"{out.name.removesuffix('.zarr')}{FOLDER_SUFFIX}")


def scan_slides(
    files: Sequence[SlideFile], settings: SlideSettings, folder: Path, workers: int | None,
    again: bool = False,
) -> list[SlideScan]:
    """Look at the slides that were not looked at, or have changed; keep what was found of the others.

    Args:
        files: The slides.
        settings: Of the source.
        folder: See `slides_folder`.
        workers: Processes; None means one a core, 0 this process.
        again: Look again at slides that could not be read, too.

    Returns:
        A scan for each file, in order.

    Raises:
        StoreError: When the folder cannot be written.
    """
    keys = [scan_key(file, settings) for file in files]
    found = [read_scan(folder, file.slide, key) for file, key in zip(files, keys, strict=True)]
    missing = [number for number, scan in enumerate(found) if scan is None or (again and scan.state in TRY_AGAIN)]
    with clear_os_errors(folder):
        if missing:
            _scan([files[number] for number in missing], settings, folder, workers)
            for number in missing:
                found[number] = read_scan(folder, files[number].slide, keys[number])
        scans = [scan for scan in found if scan is not None]
        if len(scans) < len(files):
            lost = files[found.index(None)].slide
            raise StoreError(f"{folder}: what was found out about slide {lost!r} cannot be read back; something else "
                             "writes there. Run the same command again.")
        write_states(folder, scans)
    return scans


def _scan(files: Sequence[SlideFile], settings: SlideSettings, folder: Path, workers: int | None) -> None:
    count = min(cores() if workers is None else workers, len(files))
    bar = Progress(len(files), unit="slide", title="look at")
    engine: Engine = InProcess() if count == 0 else Processes(count)
    try:
        with closing(engine):
            run_all(engine, [partial(_one, engine, file, settings, folder) for file in files], bar.update)
    finally:
        bar.close()


def _one(engine: Engine, file: SlideFile, settings: SlideSettings, folder: Path) -> None:
    try:
        engine.call(scan_slide, (file, settings, folder), 1)
    except WorkerDied as died:
        write_scan(folder, SlideScan(file.slide, scan_key(file, settings), "crashed",
                                     f"each process that looked at it {died}"))


COLUMNS = ("slide", "state", "detail", "backend", "vendor", "width", "height", "levels", "mpp_x", "mpp_y", "mpp_origin",
           "tissue", "tissue_method", "candidates", "kept", "taken")


def write_states(folder: Path, scans: Sequence[SlideScan]) -> None:
    """Write `slides.csv`: one row a slide, with its state."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(_state(scan) for scan in scans)
    raw = text.getvalue().encode()
    path = folder / STATES_FILE
    if not path.is_file() or path.read_bytes() != raw:
        write_atomic(path, raw)


def read_states(folder: Path) -> list[dict[str, str]]:
    """The rows of `slides.csv`."""
    with (folder / STATES_FILE).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _state(scan: SlideScan) -> dict[str, object]:
    row: dict[str, object] = {
        "slide": scan.slide, "state": scan.state, "detail": scan.detail, "candidates": scan.candidates,
        "kept": scan.kept, "taken": len(scan.selected),
    }
    if scan.info is not None:
        first = scan.info.levels[0]
        row |= {"backend": scan.info.backend, "vendor": scan.info.vendor, "width": first.width, "height": first.height,
                "levels": len(scan.info.levels)}
    if scan.mpp is not None:
        row |= {"mpp_x": scan.mpp.x, "mpp_y": scan.mpp.y, "mpp_origin": scan.mpp.origin}
    if scan.tissue:
        row |= {"tissue": round(scan.tissue["share"], 4), "tissue_method": scan.tissue["method"]}
    return row


def states_text(scans: Sequence[SlideScan]) -> str:
    """How many slides are in which state."""
    counts = Counter(scan.state for scan in scans)
    ordered = sorted(counts, key=lambda state: (state != READY, state))
    return ", ".join(f"{counts[state]:,} {state}" for state in ordered)
