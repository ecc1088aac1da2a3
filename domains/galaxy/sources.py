"""What preparation of galaxy data adds to the image source: simulated votes on real images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciencessl.data.order import derive_key
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.domains.galaxy.schema import load_schema
from sciencessl.domains.galaxy.votes import CLASS_FRACTIONS, SIMULATED, votes_from_class
from sciencessl.errors import ConfigError, DataError, did_you_mean
from sciencessl.spec import LabelSchema

if TYPE_CHECKING:
    from sciencessl.store.reader import Store

TABLE = "simulated_votes"


@dataclass(frozen=True)
class GalaxyPrepare(SurveySettings):
    """Settings of galaxy preparation beyond those of every source: of tiles and sources, and of simulated votes.

    Attributes:
        simulate_votes_from: Class column that simulated votes are drawn from; empty draws none. For real images that
            have only a class. Every result that uses them is about simulated votes on real images.
        simulate_schema: Schema that the votes follow.
        simulate_questions: Questions that get votes.
        simulate_seed: Of the draw.
    """

    simulate_votes_from: str = ""
    simulate_schema: str = "gzd5"
    simulate_questions: tuple[str, ...] = ("smooth-or-featured",)
    simulate_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simulate_seed < 0:
            raise ConfigError(f"simulate_seed is {self.simulate_seed}; it must be 0 or more.")
        if self.simulate_votes_from:
            # Now, not when the pixels are stored and it is time to draw.
            load_schema(self.simulate_schema).only(self.simulate_questions)


def add_simulated_votes(store_path: Path, options: GalaxyPrepare) -> None:
    """Write the table `simulated_votes` of a sealed store, declared as derived from the class column.

    Raises:
        ConfigError: When the store has no such column, or the class says nothing about the questions.
        DataError: When no galaxy has a class that votes can be drawn from.
    """
    if not options.simulate_votes_from:
        return
    import pyarrow as pa

    from sciencessl.store.reader import Store
    from sciencessl.store.tables import write_table

    store = Store(store_path)
    _check_column(store, options.simulate_votes_from)
    schema = load_schema(options.simulate_schema).only(options.simulate_questions)
    votes, note = _draw(store, schema, options)
    columns = {column: votes[:, i] for i, column in enumerate(schema.columns)}
    data = pa.table({"id": pa.array(store.ids, pa.string()), **columns})
    if TABLE in store.tables:
        old = store.table(TABLE)
        if old.note == note and old.data.equals(data):
            return
    parents = dict.fromkeys(schema.columns, (options.simulate_votes_from,))
    write_table(store_path, TABLE, data, schema, derived_from=parents, note=note)


def _draw(store: Store, schema: LabelSchema, options: GalaxyPrepare) -> tuple[np.ndarray, str]:
    """(N, A) votes in store order, and a sentence that says what they are, with the parameters of the draw."""
    classes = list(store.column(options.simulate_votes_from))
    keys = [key.tobytes().hex() for key in store.keys(np.arange(len(store)))]
    # A generator for each galaxy: neither its row nor its neighbours change who votes what, so that votes stay when
    # galaxies are added.
    drawn = [
        votes_from_class(schema, [value], _generator(options.simulate_seed, key))[0][0]
        for value, key in zip(classes, keys, strict=True)
    ]
    _, described = votes_from_class(schema, classes, np.random.default_rng(options.simulate_seed))
    for name in ("spawn_key", "state_before"):
        described.pop(name)
    described |= {"generator": "Philox", "seed": options.simulate_seed, "keyed_by": "seed and key of the galaxy"}
    return np.array(drawn).reshape(-1, len(schema.columns)), f"{SIMULATED}: {json.dumps(described, sort_keys=True)}"


def _check_column(store: Store, column: str) -> None:
    complete = "The store itself is complete: the same command with another column adds the votes."
    known = [name for name, where in store.columns().items() if where != TABLE]
    if column not in known:
        close = did_you_mean(column, known)
        raise ConfigError(f"--simulate-votes-from {column}: {store.path} has no such column.{close} {complete}")
    values = {str(value) for value in store.column(column)}
    if not values & set(CLASS_FRACTIONS):
        raise DataError(
            f"--simulate-votes-from {column}: values such as {sorted(values)[:3]} are no classes that votes can be "
            f"drawn from, which are {', '.join(CLASS_FRACTIONS)}. {complete}"
        )


def _generator(seed: int, key: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=derive_key("simulated votes", seed, key)))
