"""What preparation of galaxy data adds to the image source: simulated votes on real images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.domains.galaxy.schema import load_schema
from sciencessl.domains.galaxy.votes import SIMULATED, votes_from_class

TABLE = "simulated_votes"


@dataclass(frozen=True)
class GalaxyPrepare:
    """Settings of galaxy preparation beyond those of every source.

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


def add_simulated_votes(store_path: Path, options: GalaxyPrepare) -> None:
    """Write the table `simulated_votes` of a sealed store, declared as derived from the class column.

    Raises:
        StoreError: When the store has no such column.
        ConfigError: When the class says nothing about the questions.
    """
    if not options.simulate_votes_from:
        return
    import pyarrow as pa

    from sciencessl.store.reader import Store
    from sciencessl.store.tables import write_table

    store = Store(store_path)
    schema = load_schema(options.simulate_schema).only(options.simulate_questions)
    classes = store.column(options.simulate_votes_from)
    # By key, not by row: neither the number of rows nor their order changes who votes what.
    order = np.argsort([key.tobytes() for key in store.keys(np.arange(len(store)))])
    votes = np.zeros((len(store), len(schema.columns)), dtype=np.int64)
    rng = np.random.default_rng(options.simulate_seed)
    votes[order], description = votes_from_class(schema, [classes[i] for i in order], rng)
    columns = {column: votes[:, i] for i, column in enumerate(schema.columns)}
    write_table(
        store_path, TABLE, pa.table({"id": pa.array(store.ids, pa.string()), **columns}), schema,
        derived_from=dict.fromkeys(schema.columns, (options.simulate_votes_from,)),
        note=f"{SIMULATED}: {json.dumps(description, sort_keys=True)}",
    )
