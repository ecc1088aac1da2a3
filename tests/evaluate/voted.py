"""Runs with a head for votes and stores with votes, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.members import member_concentrations
from sciencessl.evaluate.posterior import asked
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.vote_head import VoteHead, write_vote_head

SCHEMA = LabelSchema("tree", (
    Question("smooth", ("yes", "disk", "artifact")),
    Question("edge", ("yes", "no"), ("smooth_disk",)),
    Question("arms", ("1", "2", "more"), ("edge_no",)),
))  # fmt: skip


def give_head(run: Path, store: Store, seed: int = 0, schema: LabelSchema = SCHEMA) -> Path:
    """Writes a vote head with random weights; concentrations of the store's images lie about 6."""
    features = compute_embeddings(run_encoder(run), store, np.arange(len(store)), workers=0)
    weight = np.random.default_rng(seed).normal(size=(len(schema.columns), features.shape[1]))
    logits = features @ weight.T
    scale = 1.0 / logits.std(axis=0)
    bias = -3.0 - logits.mean(axis=0) * scale
    arrays = (weight * scale[:, None], bias, np.full(len(bias), 0.2))
    write_vote_head(run, VoteHead(schema, *(array.astype(np.float32) for array in arrays), {}))
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
