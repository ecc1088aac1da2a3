"""Whole rows of a sealed store in another one: hard links where the file system has them, copies elsewhere.

Nothing of a store is ever written in place, so that two stores may share a file: who writes a row anew removes the name
first and leaves the other store's file alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sciencessl.errors import StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import atomic_stream
from sciencessl.store.seal import read_receipt, required_receipt


def link_row(source: Path, target: Path, header: zpack.StoreHeader, row: int) -> int:
    """Make a row of one store the same row of another; its receipt comes last, and a row that has one is left alone.

    Args:
        source: A sealed store.
        target: A store that was begun, of the same fields, places and chunks.
        header: Of either.
        row: Row number, in both.

    Returns:
        Bytes that had to be copied.

    Raises:
        StoreError: When the receipt is missing or damaged.
        OSError: As the file system says.
    """
    receipt = required_receipt(source, row)
    if _is_there(target, receipt):
        return 0
    (target / zpack.receipt_file(row)).unlink(missing_ok=True)
    copied = 0
    for name, spec in header.fields.items():
        shard = zpack.shard_file(name, spec, row)
        (target / shard).unlink(missing_ok=True)
        if (source / shard).exists():
            copied += link_file(source / shard, target / shard)
    for name in (*sorted(receipt.files), zpack.receipt_file(row)):
        copied += link_file(source / name, target / name)
    return copied


def _is_there(target: Path, receipt: zpack.Receipt) -> bool:
    try:
        return read_receipt(target, receipt.row) == receipt
    except StoreError:
        return False


def link_file(source: Path, target: Path) -> int:
    """Link a file, or copy it where that cannot be; one that is there is replaced. Returns the bytes copied.

    Raises:
        OSError: As the file system says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
        return 0
    except OSError:
        # Another file system, or one without hard links; if it is anything else, copying fails alike.
        with source.open("rb") as reading, atomic_stream(target) as writing:
            shutil.copyfileobj(reading, writing, 4 * 2**20)
        return target.stat().st_size


def can_link(source: Path, target: Path) -> bool:
    """Whether links to the files of a store are likely to work: both lie on one device."""
    there = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    return source.stat().st_dev == there.stat().st_dev
