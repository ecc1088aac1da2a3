"""What covers tiles, or lies in them, as the columns of a table of labels and their schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from sciencessl.data_prep.cell_counts import CellCounts
from sciencessl.data_prep.region_areas import ClassAreas, tile_class
from sciencessl.errors import DataError
from sciencessl.spec import LabelSchema, Question

AREA = "area_"
"""Prefix of the columns of shares."""


def area_columns(
    name: str, parts: Sequence[ClassAreas], classes: Sequence[str], rule: str, least: float | None
) -> tuple[dict[str, pa.Array], list[str]]:
    """Shares of each class, and the class of each tile in a column of the table's name.

    Args:
        name: Of the table.
        parts: One a slide.
        classes: In order, the earlier ones going before; empty takes all that there are, those with less area first, so
            that what was drawn within something else goes before it.
        rule: As `tile_class`, like `least`.
        least: Share that the class must cover.

    Returns:
        The columns, and the order of the classes.
    """
    order = list(classes) or _rare_first(parts)
    shares = _padded([(part.classes, part.share) for part in parts], order)
    columns = {f"{AREA}{each}": pa.array(shares[:, place]) for place, each in enumerate(order)}
    found = [each for part in parts for each in tile_class(part, order, rule, least)]
    return columns | {name: pa.array(found, pa.string())}, order


def vote_columns(
    name: str, parts: Sequence[Mapping[str, ClassAreas]], classes: Sequence[str], rule: str, least: float | None
) -> tuple[dict[str, pa.Array], LabelSchema]:
    """How many raters' class of the tile each class is: the answers of one question. Who drew nothing has no vote.

    Args:
        name: Of the question.
        parts: One a slide: rater -> areas.
        classes: As `area_columns`, like `rule` and `least`.
        rule: As `tile_class`.
        least: Share that the class must cover.

    Raises:
        DataError: For fewer than two classes.
    """
    order = list(classes) or _rare_first([areas for part in parts for areas in part.values()])
    schema = _schema(name, order, "votes of raters on the class of a tile")
    place = {each: column for column, each in enumerate(order)}
    votes = []
    for part in parts:
        counts = np.zeros((max(len(areas.share) for areas in part.values()), len(order)), np.float32)
        for areas in part.values():
            for row, found in enumerate(tile_class(areas, order, rule, least)):
                if found is not None:
                    counts[row, place[found]] += 1
        votes.append(counts)
    return _answers(schema, np.concatenate(votes)), schema


def cell_columns(
    name: str, parts: Sequence[CellCounts], classes: Sequence[str]
) -> tuple[dict[str, pa.Array], LabelSchema]:
    """Cells of each class: the answers of one question.

    Args:
        name: Of the question.
        parts: One a slide.
        classes: In order; empty takes all that there are, by the alphabet.

    Raises:
        DataError: For fewer than two classes.
    """
    order = list(classes) or sorted({each for part in parts for each in part.classes})
    schema = _schema(name, order, "cells of each class in a tile")
    return _answers(schema, _padded([(part.classes, part.counts) for part in parts], order)), schema


def _schema(name: str, classes: Sequence[str], title: str) -> LabelSchema:
    if len(classes) < 2:
        raise DataError(f"the only class is {', '.join(map(repr, classes))}: counts of a question need two or more, of "
                        "which a tile has shares. Take more with --classes.")
    return LabelSchema(name, (Question(name, tuple(classes)),), title=title, source="Source: ours")


def _answers(schema: LabelSchema, counts: np.ndarray) -> dict[str, pa.Array]:
    return {column: pa.array(counts[:, place].astype(np.float32)) for place, column in enumerate(schema.columns)}


def _rare_first(parts: Sequence[ClassAreas]) -> list[str]:
    total: dict[str, float] = {}
    for part in parts:
        for name, share in zip(part.classes, part.share.sum(0, dtype=np.float64).tolist(), strict=True):
            total[name] = total.get(name, 0.0) + share
    return sorted(total, key=lambda name: (total[name], name))


def _padded(parts: Sequence[tuple[Sequence[str], np.ndarray]], order: Sequence[str]) -> np.ndarray:
    """(sum of n, k) values in the order of the classes; 0 where a slide has none of one."""
    found = []
    for classes, values in parts:
        padded = np.zeros((len(values), len(order)), values.dtype)
        for column, name in enumerate(classes):
            padded[:, order.index(name)] = values[:, column]
        found.append(padded)
    return np.concatenate(found)
