"""Features that tell of some labels and not of others, in batches, for the tests of online probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciencessl.monitor.probes import Probes
from sciencessl.samples import Batch
from sciencessl.spec import LabelSchema, Question
from sciencessl.train.labels import LabelSet
from sciencessl.train.ranks import Ranks

FEATURES, ROWS = 12, 400
SCHEMA = LabelSchema("tiny", (Question("smooth", ("yes", "no")), Question("arms", ("1", "2", "3"))))
LABELS = LabelSchema("bar+ring", (Question("bar", ("absent", "present")), Question("ring", ("absent", "present"))))


def make_data(seed: int = 0) -> tuple[Tensor, list[LabelSet]]:
    """Features of three classes, and labels of each kind that features tell of; a third of each is missing."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, ROWS, p=[0.6, 0.3, 0.1])
    features = 2.0 * rng.normal(size=(3, FEATURES))[classes] + rng.normal(size=(ROWS, FEATURES)) + 5.0
    fractions = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])[classes]
    votes = np.concatenate([rng.multinomial(20, fractions), rng.multinomial(9, [0.2, 0.3, 0.5], ROWS)], 1)
    present = np.stack([classes == 2, rng.uniform(size=ROWS) < 0.5], axis=1)
    several = np.stack([~present, present], axis=2).reshape(ROWS, 4).astype(np.float32)
    missing = rng.uniform(size=(3, ROWS)) < 1 / 3
    votes[missing[0]], several[missing[1]] = 0, 0
    sets = [
        LabelSet("class", None, ("a", "b", "c"), np.where(missing[2], -1, classes), ("class",), "", ()),
        LabelSet("smooth+arms", SCHEMA, (), votes.astype(np.float32), SCHEMA.columns, "", ()),
        LabelSet("bar+ring", LABELS, (), several, ("bar", "ring"), "", (), several=True),
    ]
    return torch.from_numpy(features), sets


def make_batch(sets: Sequence[LabelSet], rows: np.ndarray) -> Batch:
    labels = {found.name: torch.from_numpy(found.values[rows]) for found in sets}
    return Batch([], labels, [str(row) for row in rows], rows)


def stream(probes: Probes, features: Tensor, sets: Sequence[LabelSet], steps: int, each: int = 20) -> None:
    order = np.random.default_rng(1).permutation(ROWS)
    for step in range(steps):
        rows = order[np.arange(step * each, (step + 1) * each) % ROWS]
        probes.observe(features[rows], make_batch(sets, rows))


def share_of_a_rank(ranks: Ranks) -> Any:
    """Scores of eight steps and the state after them, of one process among two."""
    features, sets = make_data()
    probes, order = Probes(sets, FEATURES), np.random.default_rng(1).permutation(ROWS)
    for step in range(8):
        whole = order[step * 20 : step * 20 + 20]
        cut = 20 if step == 3 else 14  # unequal parts, and once none at all
        rows = whole[:cut] if ranks.rank == 0 else whole[cut:]
        probes.observe(features[rows], make_batch(sets, rows), ranks)
    state = {name: value.numpy() for name, value in probes.state_dict().items() if name != "bank"}
    return probes.read(), state
