"""Runs with a head for votes and stores with votes, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from sciencessl.evaluate.members import member_concentrations
from sciencessl.evaluate.posterior import asked
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.folder import read_model
from sciencessl.train.vote_head import VoteHead, write_vote_head

SCHEMA = LabelSchema("tree", (
    Question("smooth", ("yes", "disk", "artifact")),
    Question("edge", ("yes", "no"), ("smooth_disk",)),
    Question("arms", ("1", "2", "more"), ("edge_no",)),
))  # fmt: skip


def give_head(run: Path, seed: int = 0, schema: LabelSchema = SCHEMA, spread: float = 12.0) -> Path:
    """Writes a vote head with random weights, whose concentrations lie about 5 and differ between images."""
    rng = np.random.default_rng(seed)
    answers, features = len(schema.columns), read_model(run).features
    weight = rng.normal(0, spread / np.sqrt(features), (answers, features)).astype(np.float32)
    bias = rng.uniform(-3.5, -2.5, answers).astype(np.float32)
    write_vote_head(run, VoteHead(schema, weight, bias, np.full(answers, 0.2, np.float32), {}))
    return run


def give_votes(store: Store, runs: list[Path], seed: int = 0, people: int = 30) -> Store:
    """Votes that a volunteer down the tree would give if the posterior of the runs were right, on every sample."""
    rng = np.random.default_rng(seed)
    alpha = np.concatenate([own for _, own in member_concentrations(runs, store, np.arange(len(store)), workers=0)], 1)
    chosen = alpha[rng.integers(len(alpha), size=len(store)), np.arange(len(store))]
    likely, counts = asked(alpha, SCHEMA), np.zeros(chosen.shape, np.int64)
    for number, (low, high) in enumerate(SCHEMA.groups):
        gammas = rng.gamma(chosen[:, low:high])
        votes = rng.binomial(people, likely[:, number])
        counts[:, low:high] = rng.multinomial(votes, gammas / gammas.sum(axis=1, keepdims=True))
    columns = {name: counts[:, i] for i, name in enumerate(SCHEMA.columns)}
    write_table(store.path, "votes", pa.table({"id": store.ids, **columns}), schema=SCHEMA, note="simulated")
    return Store(store.path)
