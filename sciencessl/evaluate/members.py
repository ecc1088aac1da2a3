"""Members of a posterior: runs whose vote heads answer the same questions, each as it is or thinned by dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.data.order import derive_key
from sciencessl.errors import ConfigError
from sciencessl.evaluate.encoders import Encoder, embed_together, read_card, require_finite, run_encoder
from sciencessl.spec import LabelSchema
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.train.vote_head import VoteHead, read_vote_head

PART = 16_384
"""Samples whose features are in memory at a time."""

CHUNK = 2_048
"""Samples whose concentrations are in memory at a time."""


@dataclass(frozen=True)
class Member:
    """A run with a head for votes.

    Attributes:
        encoder: Frozen, in evaluation mode: without dropout.
        head: On its features.
    """

    encoder: Encoder
    head: VoteHead

    @property
    def digest(self) -> str:
        """Of encoder, input settings and head."""
        head = self.head
        arrays = [array.tobytes() for array in (head.weight, head.bias, head.dropout)]
        return digest(self.encoder.digest.encode(), repr(head.schema.questions).encode(), *arrays)

    @property
    def schema(self) -> LabelSchema:
        """Of its answers."""
        return self.head.schema


def read_members(runs: Sequence[str | Path | Member]) -> tuple[Member, ...]:
    """Runs as members of one posterior; those that are read already stay as they are.

    Raises:
        ConfigError: When there is none, one is given twice, or they do not answer the same questions in one order.
        RunError: When a folder holds no finished run or no vote head, or is damaged.
        DataError: When the weights of an encoder are damaged.
    """
    if not runs:
        raise ConfigError("posterior: there is no member; give one run or more that learned from votes.")
    members = tuple(run if isinstance(run, Member) else _read(local_path(run, "RUN")) for run in runs)
    first, *others = members
    for number, other in enumerate(others, 1):
        if other.schema.questions != first.schema.questions:
            raise ConfigError(
                f"posterior: {other.encoder.name} answers {_differing(other.schema, first.schema)}. Members of one "
                "posterior learn the same --labels in the same order, under one schema."
            )
        if other.digest in {member.digest for member in members[:number]}:
            raise ConfigError(f"posterior: {other.encoder.name} is given twice, or as a copy; each run counts once.")
    return members


def _read(run: Path) -> Member:
    read_card(run)  # a damaged one is an error in words
    head = read_vote_head(run)
    return Member(run_encoder(run), head)


def _differing(found: LabelSchema, first: LabelSchema) -> str:
    theirs, own = (", ".join(question.name for question in schema.questions) for schema in (found, first))
    if theirs != own:
        return f"the questions {theirs}, and the first run {own}"
    name = next(a.name for a, b in zip(found.questions, first.questions, strict=True) if a != b)
    return f"{name} with other answers, or after other answers, than the first run"


def member_concentrations(
    runs: Sequence[str | Path | Member],
    store: Store,
    index: np.ndarray,
    dropout_passes: int = 0,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What all members say of samples of a store, a few thousand at a time: memory does not grow with the samples.

    Encoders run once for each sample, whatever the passes; they have no dropout. A pass thins the head's features as
    training did, by a mask that is a pure function of (seed, pass): the same for every run and every sample, so that a
    pass is one network, and the same values come out however the samples are divided.

    Args:
        runs: As `read_members` takes them.
        store: That the encoders can read.
        index: (n,) store indices.
        dropout_passes: P passes with the head's dropout for each run; 0 is one without.
        seed: Of the masks.
        workers: Loader processes.
        progress: Called with (samples done, samples).

    Yields:
        (k,) consecutive parts of `index`, and (M, k, A) float64 concentrations in [1, 101]: M is the number of runs, or
        P times it, the passes of a run one after the other.

    Raises:
        ConfigError: As `read_members`; for negative passes.
        RunError: As `read_members`.
        DataError: As `read_members`; when the store lacks the encoders' field or channels, or features are not finite.
    """
    members, index = read_members(runs), np.asarray(index)
    masks = [_masks(member.head, dropout_passes, seed) for member in members]
    for start in range(0, len(index), PART):
        part = index[start : start + PART]

        def advance(done: int, total: int, start: int = start) -> None:
            if progress:
                progress(start + done, len(index))

        features = _features(members, store, part, workers, advance)
        for low in range(0, len(part), CHUNK):
            rows = slice(low, low + CHUNK)
            yield part[rows], np.stack([
                member.head.concentrations(own[rows], kept)
                for member, own, passes in zip(members, features, masks, strict=True) for kept in passes
            ])


def _masks(head: VoteHead, passes: int, seed: int) -> list[np.ndarray | None]:
    """Of each pass, (A, F) whether a feature is kept. Heads of one width and dropout have the same."""
    if passes < 0:
        raise ConfigError(f"--dropout-passes {passes}: give the passes of each run, 1 or more; 0 leaves dropout out.")
    if not passes:
        return [None]
    width = head.weight.shape[1]
    draws: list[np.ndarray] = [
        np.random.default_rng(derive_key("dropout pass", seed, number)).random((width,)) for number in range(passes)
    ]
    return [draw >= head.dropout[:, None] for draw in draws]


def _features(
    members: Sequence[Member], store: Store, index: np.ndarray, workers: int, progress: Callable[[int, int], None]
) -> list[np.ndarray]:
    """(n, F) float32 of each member; images are decoded once for all members of one input."""
    inputs: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        inputs.setdefault(member.encoder.input, []).append(number)
    found: dict[int, np.ndarray] = {}
    for turn, numbers in enumerate(inputs.values()):
        values = embed_together([members[number].encoder for number in numbers], store, index, workers,
                                progress if turn == len(inputs) - 1 else None)
        found.update(zip(numbers, values, strict=True))
    for number, features in found.items():
        require_finite(features, store, index, members[number].encoder.name)
    return [found[number] for number in range(len(members))]
