"""`rank`: the samples most similar to some, or the strangest of all, as a list and a contact sheet."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.errors import ConfigError, DataError, RunError, did_you_mean
from sciencessl.evaluate.embedded import Embedded, EmbeddedFolder, is_embed_folder, read_folder, read_rows
from sciencessl.evaluate.encoders import VARIANTS, Encoder, check_input, compute_embeddings, random_encoder
from sciencessl.evaluate.foreign import find_encoder, is_path
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.nearness import OTHERS, similarity, strangeness
from sciencessl.evaluate.predict import kept_columns
from sciencessl.evaluate.ranking import LIST, RANKING, SHEET, Asked, Listed, Ranking, write_list, write_sheet
from sciencessl.evaluate.rediscovery import Rediscovery, Wanted, found_by, wanted_samples
from sciencessl.evaluate.shards import chosen_samples
from sciencessl.evaluate.subsets import priorities
from sciencessl.evaluate.tasks import TaskData
from sciencessl.plain import plain
from sciencessl.store.files import write_atomic
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.sides import Side, near_things, same_contents
from sciencessl.train.measure import best_time

EMBEDDINGS, RANDOM = "embeddings", "random"
"""Folders in `out`."""
TIMED = 64
"""Images that a dry run times."""


def rank(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    similar_to: Sequence[str] = (),
    anomalies: bool = False,
    n: int = 100,
    split: str = "all",
    find: str = "",
    random_encoders: int = 5,
    keep: Sequence[str] = (),
    dry_run: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> Ranking:
    """List the samples that are most similar to examples, or that look least like any other, by their embeddings.

    Similarity is that of `nearness.similarity`, strangeness `nearness.strangeness`. What shows the same thing as an
    example is left out: itself, samples of its group, of its place on the sky, and equal contents. Embeddings stay in
    `out`, so that a call that was stopped goes on. For several searches embed once, and give the folder of `embed` as
    `run`. Ranks are a pure function of embeddings and store.

    Args:
        run: A finished run, what `foreign.find_encoder` takes, or a folder of `embed`.
        data: A sealed store.
        out: Folder for `ranking.csv` (rank, id, score, nearest, ra and dec where the store has them, what is kept),
            `sheet.png`, `ranking.json` and embeddings.
        similar_to: As the attributes of `Asked`, like those that follow.
        anomalies: As above.
        n: As above.
        split: As above.
        find: As above. Labels of samples that were not drawn at random are not used.
        random_encoders: As above.
        keep: As above.
        dry_run: Count, time one batch and write nothing.
        overwrite: Replace another ranking in `out`.
        workers: Loader processes.

    Raises:
        ConfigError: For an unknown example, column or class, or arguments that exclude each other.
        RunError: When a run is not finished, or `out` holds another ranking.
        StoreError: When the store is missing or unsealed, or lacks a column.
        DataError: When embeddings are missing or not finite, or nothing is left to rank.
    """
    started = time.perf_counter()
    asked = Asked(tuple(dict.fromkeys(similar_to)), anomalies, n, split, find, random_encoders, tuple(keep))
    store, folder = Store(data), local_path(out)
    field = _Field(store, asked)
    kept = kept_columns(store, asked.keep, ("id", "rank", "score", "nearest"))
    source = _Source(run, store, folder, field, asked)
    card = {"made_by": "sciencessl rank", "embeddings": source.name, "store": store.digest,
            "withdrawn": store.removals_digest, "asked": asked}
    _check_out(folder, card, overwrite)
    if dry_run:
        missing, seconds = source.missing(overwrite)
        return Ranking(folder, len(field.ranked), field.left_out, (), None, source.notes, missing, True, seconds)
    score, nearest = field.scores(source.embedded(overwrite, workers))
    order = field.ranked[np.argsort(-score[field.ranked], kind="stable")][: asked.n]
    rows = tuple(Listed(field.id(i), float(score[i]), nearest[i] if nearest else "") for i in order.tolist())
    judged = source.judged(score, overwrite, workers)
    index = field.index[order]
    write_list(folder / LIST, store, index, rows, {name: column.take(pa.array(index)) for name, column in kept.items()})
    write_sheet(folder / SHEET, store, field.index[field.examples], index, rows)
    found = Ranking(folder, len(field.ranked), field.left_out, rows, judged, source.notes, 0, False,
                    time.perf_counter() - started)
    write_atomic(folder / RANKING, json.dumps(plain({**card, **plain(found)}), indent=1, allow_nan=False).encode())
    return found


class _Field:
    """The samples whose embeddings are needed: `index` (n,) in the store; those that are ranked, and the examples, by
    position among them; `objects` (n,) names of what each shows."""

    def __init__(self, store: Store, asked: Asked) -> None:
        chosen = chosen_samples(store, asked.split, "rank")
        examples = _examples(store, asked.similar_to)
        self.store = store
        self.index = np.union1d(chosen, examples)
        self.examples = np.searchsorted(self.index, examples)
        same = _same_as(store, self.index, examples)
        free = np.isin(self.index, chosen)
        self.left_out: dict[str, int] = {}
        for why, rows in same.items():
            lost = int((free & rows).sum())
            free &= ~rows
            if lost:
                self.left_out[why] = lost
        self.ranked = np.flatnonzero(free)
        if not len(self.ranked):
            raise DataError(f"{store.path}: of the {len(chosen):,} samples of split={asked.split} none is left to "
                            "rank: all show the same things as the examples.")

    def id(self, position: int) -> str:
        return self.store.ids[int(self.index[position])]

    @cached_property
    def objects(self) -> np.ndarray:
        side = Side(self.store, self.index, "ranked samples")
        ids = side.texts("id")
        if "group" not in self.store.columns():
            return ids
        groups = side.texts("group")
        return np.where(groups == "", ids, groups)

    def scores(self, embedded: Embedded) -> tuple[np.ndarray, list[str]]:
        """(n,) scores, greater first, and the id of the example that each is nearest to, where there are some."""
        if len(self.examples):
            score, nearest = similarity(embedded, self.examples)
            names = [self.id(position) for position in self.examples.tolist()]
            return score, [names[number] for number in nearest.tolist()]
        ids = np.array([self.id(position) for position in self.ranked.tolist()], dtype=object)
        others = self.ranked[np.argsort(priorities(ids, "rank"), kind="stable")[:OTHERS]]
        _, objects = np.unique(self.objects.astype(str), return_inverse=True)
        return strangeness(embedded, np.sort(others), objects), []


def _examples(store: Store, names: Sequence[str]) -> np.ndarray:
    place = {name: position for position, name in enumerate(store.ids)} if names else {}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise ConfigError(f"--similar-to {unknown[0]}: {store.path} has no such id.{did_you_mean(unknown[0], place)} "
                          f"Its {len(place):,} ids look like {next(iter(place), '')!r}.")
    found = np.array([place[name] for name in names], dtype=np.int64)
    gone = np.isin(found, store.removed)
    if gone.any():
        raise ConfigError(f"--similar-to {names[int(np.argmax(gone))]}: the sample was withdrawn from {store.path}; "
                          "give another one.")
    return found


def _same_as(store: Store, index: np.ndarray, examples: np.ndarray) -> dict[str, np.ndarray]:
    """Why -> (n,) whether a sample shows the same thing as an example."""
    if not len(examples):
        return {}
    every, own = Side(store, index, "ranked samples"), Side(store, np.sort(examples), "examples")
    found = {"an example itself": np.isin(index, examples)}
    if "group" in store.columns():
        groups = {*own.texts("group").tolist()} - {""}
        found["in the group of an example"] = np.array([group in groups for group in every.texts("group").tolist()])
    for name, match in same_contents(own, every):
        found[f"same {name} as an example"] = match >= 0
    for near in near_things(own, every):
        if near.same:
            found[f"same {near.by} as an example"] = near.match >= 0
    return found


class _Source:
    """Where embeddings come from, and those of random encoders that they are judged against."""

    def __init__(self, run: str | Path, store: Store, folder: Path, field: _Field, asked: Asked) -> None:
        self.store, self.field, self.asked, self.folder = store, field, asked, folder
        self.table = local_path(run, "RUN") if is_path(run) else None
        self.encoder: Encoder | None = None
        self.name = str(run)
        if self.table is None or not is_embed_folder(self.table):
            self.table, self.encoder = None, find_encoder(run, store)
            check_input(self.encoder, store)
            self.name = self.encoder.digest
        self.wanted: Wanted | None = None
        if asked.find:
            names = field.objects[field.ranked]
            self.wanted = wanted_samples(store, field.index[field.ranked], asked.find, names)

    @property
    def notes(self) -> tuple[str, ...]:
        said = []
        if self.wanted and (self.encoder is None or not self.encoder.has_weights):
            said.append("no random encoders: features without an encoder do not say which architecture made them")
        if self.asked.anomalies and len(self.field.ranked) > OTHERS:
            said.append(f"distances are to neighbours among {OTHERS:,} random samples")
        return tuple(said)

    @property
    def _learns(self) -> bool:
        return self.encoder is not None and self.encoder.table is None

    def _own(self) -> EmbeddedFolder | None:
        if self.encoder is None or self.encoder.table is not None:
            return None
        return EmbeddedFolder(self.folder / EMBEDDINGS, [self.encoder], self.store, self.field.index)

    def _random(self) -> EmbeddedFolder | None:
        if self.wanted is None or self.encoder is None or not self.encoder.has_weights:
            return None
        encoders = [random_encoder(self.encoder.card, number, variant)
                    for variant in VARIANTS for number in range(self.asked.random_encoders)]
        return EmbeddedFolder(self.folder / RANDOM, encoders, self.store, self.field.index)

    def missing(self, overwrite: bool) -> tuple[int, float]:
        """Images to embed, counted once for each encoder, and seconds that this takes, from those of one batch."""
        if self.encoder is None or not self._learns:
            return 0, 0.0
        folders = [folder for folder in (self._own(), self._random()) if folder]
        missing = sum(len(folder.encoders) * folder.missing(overwrite) for folder in folders)
        rows, encoder = self.field.index[:TIMED], self.encoder

        def once() -> None:
            compute_embeddings(encoder, self.store, rows, 0)

        return missing, missing * best_time(once, repeats=1) / len(rows)

    def embedded(self, overwrite: bool, workers: int) -> Embedded:
        own = self._own()
        if own:
            return own.fill("rank: embed", overwrite, workers)[0]
        if self.encoder is not None and self.encoder.table is not None:
            return read_rows(self.encoder.table, self.store, self.field.index)
        assert self.table is not None  # a folder of `embed` is all that is left
        return read_folder(self.table, self.store, self.field.index)

    def judged(self, score: np.ndarray, overwrite: bool, workers: int) -> Rediscovery | None:
        """How well the class was found by these scores, and by those of random encoders."""
        if self.wanted is None:
            return None
        name = self.encoder.name if self.encoder else Path(self.name).name
        ranked = self.field.ranked
        scores = {name: [score[ranked]]}
        random = self._random()
        if random:
            found = [self.field.scores(each)[0][ranked] for each in random.fill("rank: random", overwrite, workers)]
            count = self.asked.random_encoders
            scores |= {f"random {variant}": found[number * count : (number + 1) * count]
                       for number, variant in enumerate(VARIANTS)}
        return found_by(self.wanted, scores, self.asked.n, self._mark(self.wanted))

    def _mark(self, wanted: Wanted) -> str:
        if self.encoder is None:
            return "Unknown: foreign features, whose training data are not on record."
        none, rows = np.zeros(0, np.int64), self.field.index[self.field.ranked[wanted.labelled]]
        data = TaskData(wanted.task, (wanted.name,), none, none, none, rows, wanted.positive.astype(np.int64),
                        wanted.units, "", {})
        return mark_encoder(self.encoder, self.store, data).sentence


def _check_out(folder: Path, card: Mapping[str, Any], overwrite: bool) -> None:
    try:
        found = json.loads((folder / RANKING).read_text(encoding="utf-8"))
        same = {name: found.get(name) for name in card} == plain(dict(card))
    except FileNotFoundError:
        ours = {EMBEDDINGS, RANDOM, LIST, SHEET}
        if folder.is_file() or (folder.is_dir() and {path.name for path in folder.iterdir()} - ours):
            raise RunError(f"{folder} exists and holds no ranking, so it is left alone; choose another "
                           "--out.") from None
        return
    except (ValueError, AttributeError):
        return  # damaged: written anew
    if not same and not overwrite:
        raise RunError(f"{folder} holds a ranking of other samples, embeddings or settings; choose another --out, or "
                       "pass --overwrite.")
