"""`store show`: a contact sheet of random samples, as its domain displays them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.errors import ConfigError, StoreError
from sciencessl.registry import load_domain
from sciencessl.store.conditions import meets, parse_condition
from sciencessl.store.display import fit_display
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.views.pictures import save_pixels
from sciencessl.views.sheet import contact_sheet

TILE = 128


def show(
    store: str | Path, out: str | Path, n: int = 36, split: str | None = None, column: str | None = None, seed: int = 0,
    stretch: str = "asinh", where: Sequence[str] = (),
) -> Path:
    """Write a PNG contact sheet of random samples, each with its id, and the value of a column where one is named.

    Args:
        store: A sealed store.
        out: File to write; an existing one is replaced.
        n: Samples, at most as many as there are.
        split: `train`, `val` or `test`; None for all.
        column: A column of the rows or of a table; a missing value shows as `-`.
        seed: Other samples for another seed.
        stretch: How flux is shown, by one rule for all samples; a kind as `fit_display` has them.
        where: Conditions on columns, such as `pen>0.1`: only samples that meet any of them.

    Returns:
        The file.

    Raises:
        ConfigError: When n is below 1, for a stretch as `fit_display`, or a condition that cannot be compared.
        StoreError: When the store is missing, unsealed or without samples, or the column or split does not exist.
    """
    opened = Store(store)
    if n < 1:
        raise ConfigError(f"n is {n}; a contact sheet needs 1 sample or more.")
    pool = (opened.present if split is None else opened.split(split)).all()
    if where:
        pool = pool[np.logical_or.reduce([meets(opened, parse_condition(text)) for text in where])[pool]]
    if not len(pool):
        asked = f" in split={split}" * bool(split) + f" with {' or '.join(where)}" * bool(where)
        raise StoreError(f"{store} has no samples{asked}: there is nothing to show.")
    chosen = np.sort(np.random.default_rng(seed).choice(pool, min(n, len(pool)), replace=False))
    domain = load_domain(opened.header.domain)
    shown = fit_display(opened, stretch)
    images = [shown(sample) for sample in Decoder(opened, domain.decode)(chosen)]
    columns = math.ceil(math.sqrt(len(chosen)))
    sheet = contact_sheet(images, _captions(opened, chosen, column), columns, TILE)
    path = local_path(out)
    save_pixels(sheet, path)
    return path


def _captions(store: Store, chosen: np.ndarray, column: str | None) -> list[str]:
    ids = [store.ids[i] for i in chosen]
    if column is None:
        return ids
    values = store.column(column)[chosen]
    return [f"{name}\n{_text(value)}" for name, value in zip(ids, values, strict=True)]


def _text(value: object) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
