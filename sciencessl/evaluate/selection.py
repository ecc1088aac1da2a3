"""`select`: what to label next, as a subject set for volunteers, with a random part that evaluation may use.

The random part is drawn first, from all candidates and without a look at any score; a score chooses among the rest.
Every subject carries how it was sampled, because what a score chose is no fair test, nor a fair pool, of anything:
`transfer` leaves such labels out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from sciencessl.errors import ConfigError, DataError, RunError, unknown_name
from sciencessl.evaluate.acquisition import MOST_OUTCOMES, expected_information, next_vote_entropy, outcome_count
from sciencessl.evaluate.encoders import check_input
from sciencessl.evaluate.members import Member, member_concentrations, read_members
from sciencessl.evaluate.subject_set import MANIFEST, encoded_bytes, write_manifest, write_pictures
from sciencessl.evaluate.subsets import priorities
from sciencessl.monitor.throughput import Progress
from sciencessl.plain import plain
from sciencessl.spec import LabelSchema
from sciencessl.store.files import write_atomic
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.sampled import RANDOM, SAMPLED_BY

Score = Literal["bald", "entropy", "random"]
SCORES: tuple[Score, ...] = ("bald", "entropy", "random")
SPLITS = ("train", "val", "test")
SELECTION = "selection.json"


@dataclass(frozen=True)
class Choice:
    """What is asked for; all of it goes into `selection.json`.

    Attributes:
        n: Subjects.
        score: `bald`, the information that votes would give on which member is right; `entropy` of the next vote; or
            `random`, which asks no model.
        volunteers: Votes that are expected on each question.
        dropout_passes: Passes of each run with the dropout of its head; 0 is one without.
        random_share: Part of the subjects that is drawn at random, 0 to 1.
        split: Of the candidates.
        enough_votes: From how many votes on any question on a sample is left out.
        png_px: Side of the pictures in pixels.
        seed: Of the random draw, of dropout and of drawn outcomes.

    Raises:
        ConfigError: For a value out of its range, or a score that chooses test samples.
    """

    n: int = 500
    score: Score = "bald"
    volunteers: int = 40
    dropout_passes: int = 5
    random_share: float = 0.2
    split: str = "train"
    enough_votes: int = 1
    png_px: int = 424
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("score", "split"):
            known = SCORES if name == "score" else SPLITS
            if getattr(self, name) not in known:
                raise ConfigError(f"--{name}: {unknown_name(name, getattr(self, name), known)}")
        for name in ("n", "volunteers", "enough_votes", "png_px"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 1 or more.")
        if not 0 <= self.random_share <= 1:
            raise ConfigError(f"--random-share is {self.random_share}; it must be from 0 to 1.")
        if self.split == "test" and self.score != "random" and self.random_share < 1:
            raise ConfigError(
                f"--split test --score {self.score}: what a model chose is no fair test, so that a score never chooses "
                "among test samples. Draw labels for a test with --score random."
            )

    @property
    def drawn(self) -> int:
        """Subjects of the random part."""
        return self.n if self.score == "random" else round(self.n * self.random_share)


@dataclass(frozen=True)
class Subject:
    """One of the samples to be labelled.

    Attributes:
        id: Of the sample.
        sampled_by: `random`, or the score that chose it.
        score: Sum over questions, in nats; None without runs.
        questions: Question -> its part of the score.
    """

    id: str
    sampled_by: str
    score: float | None
    questions: Mapping[str, float]


@dataclass(frozen=True)
class Selection:
    """What `select` chose, or would choose.

    Attributes:
        out: Folder with `selection.json` and `subjects/`.
        subjects: In the order of the manifest, the random part first.
        candidates: Samples of the split that it chose among.
        left_out: Samples of the split that have enough votes.
        passed_over: Those of them that the random draw would have taken: it is fair together with their labels only.
        members: Runs times passes; 0 without runs.
        notes: What a reader must know, a sentence each.
        pictures: Written now; the rest was there already.
        picture_bytes: Of all pictures, estimated in a dry run.
        dry_run: Whether nothing was written, and no score computed.
        seconds: Wall time.
    """

    out: Path
    subjects: tuple[Subject, ...]
    candidates: int
    left_out: int
    passed_over: tuple[str, ...]
    members: int
    notes: tuple[str, ...]
    pictures: int
    picture_bytes: int
    dry_run: bool
    seconds: float


def select(
    runs: Sequence[str | Path],
    data: str | Path,
    out: str | Path,
    choice: Choice | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> Selection:
    """Choose the samples whose votes would teach most, and write them as a subject set for Zooniverse.

    The choice is a pure function of runs, store, votes on record and `choice`. A second call keeps the choice and the
    pictures that are there, and writes those that are missing.

    Args:
        runs: Finished runs that learned from votes; none where the score is `random`.
        data: A sealed store.
        out: Folder for `selection.json`, `subjects/manifest.csv` and `subjects/ID.png`.
        choice: What is asked for; None takes the defaults.
        dry_run: Count candidates; score and write nothing.
        overwrite: Replace another selection in `out`.
        workers: Loader processes.

    Raises:
        ConfigError: When runs and score do not fit together, or one member alone is to disagree.
        RunError: When a run is not finished or has no head for votes, or `out` holds another selection.
        StoreError: When the store is missing, unsealed or damaged.
        DataError: When the split has no sample that lacks votes, or the store lacks the encoders' input.
    """
    started = time.perf_counter()
    choice = choice or Choice()
    store, folder = Store(data), local_path(out)
    members = _members(runs, choice, store)
    card, pool = _card(members, choice, store), _candidates(store, members, choice)
    drawn, passed = _draw(store, pool, choice)
    kept = _kept(folder, card, overwrite)
    notes = tuple(_notes(members, choice, pool, drawn, passed))
    if dry_run:
        size = encoded_bytes(store, int(pool.index[0]), choice.png_px) * min(choice.n, len(pool.index))
        return Selection(folder, (), len(pool.index), pool.left_out, passed, _count(members, choice), notes, 0, size,
                         True, time.perf_counter() - started)
    subjects = kept or _choose(store, members, choice, pool, drawn, workers)
    described = {**card, "candidates": len(pool.index), "left_out": pool.left_out, "passed_over": passed,
                 "notes": notes, "subjects": subjects}
    if not kept:
        _clear(folder)
        write_atomic(folder / SELECTION, json.dumps(plain(described), indent=1, allow_nan=False).encode())
    place = {name: position for position, name in enumerate(store.ids)}
    index = np.array([place[subject.id] for subject in subjects])
    written, large = write_pictures(store, index, folder, choice.png_px)
    write_manifest(folder, [subject.id for subject in subjects], _metadata(store, index, subjects, card))
    if large:
        notes = (*notes, f"{large:,} pictures are larger than 1 MB, which Zooniverse's uploaders refuse: choose a "
                         "smaller --png-px")
    size = sum(path.stat().st_size for path in (folder / MANIFEST).parent.glob("*.png"))
    return Selection(folder, subjects, len(pool.index), pool.left_out, passed, _count(members, choice), notes, written,
                     size, False, time.perf_counter() - started)


@dataclass(frozen=True)
class _Pool:
    """Candidates, and everything else in the split that the random draw would have taken too."""

    index: np.ndarray
    every: np.ndarray
    left_out: int


def _members(runs: Sequence[str | Path], choice: Choice, store: Store) -> tuple[Member, ...]:
    if choice.score == "random":
        if runs:
            raise ConfigError(f"--score random asks no model, and {len(runs)} runs were given; leave them out, or "
                              "choose another score.")
        return ()
    if not runs:
        raise ConfigError(f"--score {choice.score} needs finished runs that learned from votes; without any, --score "
                          "random draws the first subjects.")
    members = read_members(runs)
    for member in members:
        check_input(member.encoder, store)
    if choice.score == "bald" and len(members) * max(1, choice.dropout_passes) < 2:
        raise ConfigError("--score bald asks where members disagree, and one run without dropout is one member: every "
                          "score is 0. Give several runs, or --dropout-passes 2 or more.")
    return members


def _count(members: Sequence[Member], choice: Choice) -> int:
    return len(members) * max(1, choice.dropout_passes)


def _vote_tables(store: Store, members: Sequence[Member]) -> list[str]:
    """Tables with votes on any of the questions that the members answer, or on any question where there are none."""
    asked = {column for member in members for column in member.schema.columns}
    found = []
    for name in store.tables:
        schema = store.table(name).schema
        if schema is not None and (not members or asked & {*schema.columns}):
            found.append(name)
    return found


def _candidates(store: Store, members: Sequence[Member], choice: Choice) -> _Pool:
    every = store.split(choice.split).all()
    votes = np.zeros(len(store))
    for name in _vote_tables(store, members):
        table = store.table(name)
        schema = cast(LabelSchema, table.schema)
        counts = table.counts(store.ids, schema.columns)
        votes = np.maximum(votes, np.add.reduceat(counts, [lo for lo, _ in schema.groups], axis=1).max(axis=1))
    index = every[votes[every] < choice.enough_votes]
    if not len(index):
        raise DataError(
            f"{store.path}: split={choice.split} has {len(every):,} samples, and none with fewer than "
            f"{choice.enough_votes} votes: there is nothing to label. Raise --enough-votes, or prepare more samples."
        )
    return _Pool(index, every, len(every) - len(index))


def _draw(store: Store, pool: _Pool, choice: Choice) -> tuple[np.ndarray, tuple[str, ...]]:
    """Indices of the random part, and ids of samples with votes that came before its last one."""
    ids = store.ids
    names = np.array([ids[i] for i in pool.every], dtype=object)
    order = pool.every[np.argsort(priorities(names, f"select {choice.seed}"), kind="stable")]
    free = np.isin(order, pool.index)
    taken = np.flatnonzero(free)[: choice.drawn]
    last = int(taken[-1]) if len(taken) else 0
    return order[taken], tuple(ids[i] for i in order[:last][~free[:last]])


def _choose(
    store: Store, members: Sequence[Member], choice: Choice, pool: _Pool, drawn: np.ndarray, workers: int
) -> tuple[Subject, ...]:
    questions = [question.name for question in members[0].schema.questions] if members else []
    scores = _scores(store, members, choice, pool.index, workers) if members else np.zeros((len(pool.index), 0))
    total = scores.sum(axis=1)
    rest = np.flatnonzero(~np.isin(pool.index, drawn))
    names = np.array([store.ids[i] for i in pool.index[rest]], dtype=object)
    # Ties in an order of their own, which is not that of the store.
    falling = rest[np.lexsort((priorities(names, f"ties {choice.seed}"), -total[rest]))][: choice.n - len(drawn)]
    position = {int(i): place for place, i in enumerate(pool.index)}
    random = [position[int(i)] for i in drawn]
    return tuple(
        Subject(store.ids[pool.index[place]], how, float(total[place]) if members else None,
                dict(zip(questions, scores[place].tolist(), strict=True)))
        for how, places in ((RANDOM, random), (choice.score, falling.tolist() if members else []))
        for place in places
    )


def _scores(
    store: Store, members: Sequence[Member], choice: Choice, index: np.ndarray, workers: int
) -> np.ndarray:
    """(n, Q)."""
    schema = members[0].schema
    progress = Progress(len(index), unit="image", title="select")
    parts = []
    for _, alpha in member_concentrations(members, store, index, choice.dropout_passes, choice.seed, workers,
                                          lambda done, total: progress.update(done)):
        parts.append(next_vote_entropy(alpha, schema) if choice.score == "entropy"
                     else expected_information(alpha, schema, choice.volunteers, choice.seed))
    progress.close()
    return np.concatenate(parts)


def _card(members: Sequence[Member], choice: Choice, store: Store) -> dict[str, Any]:
    """All that the choice depends on."""
    return {
        "made_by": "sciencessl select",
        **asdict(choice),
        "runs": {member.encoder.name: member.digest for member in members},
        "store": store.digest,
        "withdrawn": store.removals_digest,
        "votes": {name: store.table(name).digest for name in _vote_tables(store, members)},
    }


def _kept(folder: Path, card: Mapping[str, Any], overwrite: bool) -> tuple[Subject, ...]:
    """The subjects that an earlier call of the same kind chose; none where there is no such call."""
    try:
        found = json.loads((folder / SELECTION).read_text(encoding="utf-8"))
        if {name: found.get(name) for name in card} == plain(dict(card)):
            return tuple(Subject(**subject) for subject in found["subjects"])
    except FileNotFoundError:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise RunError(f"{folder} exists and holds no selection, so it is left alone; choose another "
                           "--out.") from None
        return ()
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # damaged: another one
    if not overwrite:
        raise RunError(f"{folder} holds a selection of other runs, samples, votes or settings. What volunteers have "
                       "seen is worth keeping: choose another --out, or pass --overwrite.")
    return ()


def _clear(folder: Path) -> None:
    for path in [*(folder / MANIFEST).parent.glob("*.png"), folder / MANIFEST]:
        path.unlink(missing_ok=True)


def _metadata(
    store: Store, index: np.ndarray, subjects: Sequence[Subject], card: Mapping[str, Any]
) -> dict[str, Sequence[object]]:
    """Where a sample lies in the sky is for all; how it was chosen, and what a model thinks of it, for nobody."""
    places = [name for name in ("ra", "dec") if name in store.columns()]
    found: dict[str, Sequence[object]] = {name: store.column(name)[index].tolist() for name in places}
    found[f"#{SAMPLED_BY}"] = [subject.sampled_by for subject in subjects]
    found["#selection"] = [digest(canonical_json(plain(dict(card))))[:12]] * len(subjects)
    if subjects[0].score is not None:
        found["#score"] = [np.float32(subject.score or 0.0) for subject in subjects]
    return found


def _notes(
    members: Sequence[Member], choice: Choice, pool: _Pool, drawn: np.ndarray, passed: Sequence[str]
) -> list[str]:
    notes = []
    if len(pool.index) < choice.n:
        notes.append(f"{len(pool.index):,} samples are left to choose from, fewer than the {choice.n:,} asked for")
    if not len(drawn):
        notes.append("no subject is drawn at random: none of these labels may be used to measure anything "
                     "(--random-share)")
    if passed:
        notes.append(f"the random draw passed over {len(passed):,} samples that have votes already: it is fair "
                     f"together with their labels only ({SELECTION} lists them)")
    if members and choice.score == "bald":
        sampled = [q.name for q in members[0].schema.questions
                   if outcome_count(len(q.answers), choice.volunteers) > MOST_OUTCOMES]
        if sampled:
            notes.append(f"{', '.join(sampled)}: information from drawn outcomes, to about 0.01; exact for the rest")
    for name, columns in (members[0].head.left_out.items() if members else ()):
        notes.append(f"{name} counts as if it were always asked: the runs did not learn {', '.join(columns)}")
    return notes


def selection_text(found: Selection) -> str:
    """What was chosen, for people."""
    left = f"; {found.left_out:,} have enough votes" if found.left_out else ""
    lines = [f"{found.candidates:,} samples to choose from{left}"]
    if found.members:
        lines.append(f"{found.members} member{'s' if found.members > 1 else ''}")
    if found.dry_run:
        return "\n".join([*lines, *found.notes, f"pictures would take about {found.picture_bytes / 2**20:.1f} MiB; "
                                                "nothing was written"])
    counts = {how: sum(subject.sampled_by == how for subject in found.subjects) for how in (RANDOM, *SCORES)}
    said = ", ".join(f"{count:,} {'at random' if how == RANDOM else f'by {how}'}" for how, count in counts.items()
                     if count)
    chosen = [subject for subject in found.subjects if subject.sampled_by != RANDOM and subject.score is not None]
    if chosen:
        lines.append(f"scores of the chosen: {chosen[0].score:.3f} down to {chosen[-1].score:.3f} nats")
    lines += [f"{len(found.subjects):,} subjects: {said}", *found.notes,
              f"{found.pictures:,} pictures written, {found.picture_bytes / 2**20:.1f} MiB in all, "
              f"{found.seconds:.1f} s: {found.out / MANIFEST}"]
    return "\n".join(lines)
