"""`predict` of runs that learned from votes: posteriors of the fractions of all answers, into sharded Parquet."""

from __future__ import annotations

import json
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from sciencessl.evaluate.encoders import check_input
from sciencessl.evaluate.export_words import card_sentences
from sciencessl.evaluate.members import Member, member_concentrations, read_members
from sciencessl.evaluate.plots import save_figure
from sciencessl.evaluate.posterior_columns import PosteriorSettings, posterior_columns
from sciencessl.evaluate.predict import TIMED, PredictEstimate, kept_columns
from sciencessl.evaluate.pretrained_on import ancestry, any_seen, what_was_seen
from sciencessl.evaluate.shards import ShardFolder, chosen_samples
from sciencessl.evaluate.tables import WIDTH, aligned
from sciencessl.evaluate.vote_calibration import (
    QuestionCalibration,
    StoredVotes,
    Sums,
    calibration_csv,
    calibration_sums,
    find_votes,
    fit_baseline,
    summarise,
)
from sciencessl.evaluate.vote_figures import calibration_figure
from sciencessl.plain import plain
from sciencessl.spec import LabelSchema
from sciencessl.store.files import write_atomic
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.sampled import chosen_by
from sciencessl.store.sides import Side
from sciencessl.train.measure import best_time

SHARD = 16_384
"""Rows of a file."""

CALIBRATION = "calibration"
"""Stem of the report's files: `.json`, `.csv` and `.png`."""


@dataclass(frozen=True)
class QuestionPosterior:
    """One question over all samples.

    Attributes:
        question: Its name.
        asked: Mean probability that it is asked.
        leading: The answer with the largest mean expected fraction, each sample weighted by how likely it is asked;
            empty where `friendly` masks the question on all samples.
        fraction: That mean.
    """

    question: str
    asked: float
    leading: str
    fraction: float


@dataclass(frozen=True)
class PosteriorResult:
    """What `predict_votes` wrote.

    Attributes:
        out: Folder of the shards.
        samples: Rows in all shards.
        columns: Of every shard.
        shards: Number of files.
        computed: Rows computed by this call; the rest was there already.
        seconds: Wall time.
        members: Of the mixture: runs times passes.
        level: Of the intervals.
        questions: In the order of the schema.
        judged: Split whose votes the calibration is of; empty where the store has none.
        calibration: Of the questions with votes there.
        saw: What the members learned from, and what the calibration is worth, a sentence each.
    """

    out: Path
    samples: int
    columns: tuple[str, ...]
    shards: int
    computed: int
    seconds: float
    members: int
    level: float
    questions: tuple[QuestionPosterior, ...]
    judged: str
    calibration: tuple[QuestionCalibration, ...]
    saw: tuple[str, ...]


@dataclass(frozen=True)
class _Work:
    """One call: who predicts what, and whose votes it is compared with."""

    members: tuple[Member, ...]
    store: Store
    settings: PosteriorSettings
    shards: ShardFolder
    kept: Mapping[str, pa.Array]
    votes: StoredVotes
    judged: np.ndarray
    workers: int

    @property
    def schema(self) -> LabelSchema:
        return self.members[0].schema


def predict_votes(
    runs: Sequence[str | Path],
    data: str | Path,
    out: str | Path,
    split: str = "all",
    settings: PosteriorSettings | None = None,
    keep: Sequence[str] = (),
    dry_run: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> PosteriorResult | PredictEstimate:
    """Write the posterior of vote fractions of every sample. Shards that are there are kept: a call resumes.

    Columns: `id`; `split`; for each question `QUESTION_proportion-asked`, the probability that it is asked; for each
    of its answers `QUESTION_ANSWER_fraction`, the expected fraction, `_90pc-lower` and `_90pc-upper`, the ends of its
    central interval under the mixture of all members, all float32 in [0, 1], and with `concentrations` those of the M
    members as a list; what is kept of the store.

    Where the store has votes on the questions, they are compared with the posterior in `calibration.json`, `.csv` and
    `.png`: those of split=test, or of the split that is asked for.

    Args:
        runs: Finished runs that learned from the votes of the same questions.
        data: A sealed store, with votes or without.
        out: Folder for `part-00000.parquet`... and `posteriors.json`, which tells what made them.
        split: `train`, `val`, `test` or `all`.
        settings: What the columns hold; None for the defaults.
        keep: Columns of the store's rows and tables to carry over; `all` for every one.
        dry_run: Count, time one batch and write nothing.
        overwrite: Replace posteriors of something else that are in `out`.
        workers: Loader processes.

    Raises:
        ConfigError: As `read_members`; when a column to keep has the name of one of ours.
        RunError: As `read_members`; when `out` holds posteriors of something else, or other files.
        StoreError: When the store is missing or unsealed, or has no such split or column.
        DataError: When the split is empty, the store lacks the encoders' field or channels, or features are not finite.
    """
    started = time.perf_counter()
    settings, members, store = settings or PosteriorSettings(), read_members(runs), Store(data)
    for member in members:
        check_input(member.encoder, store)
    shards = ShardFolder(local_path(out), "posteriors", "run, store, split, votes or setting", store,
                         chosen_samples(store, split, "predict"), SHARD)
    own = ("id", "split", *settings.columns(members[0].schema))
    kept = kept_columns(store, keep, own)
    votes = find_votes(store, members[0].schema)
    work = _Work(members, store, settings, shards, kept, votes, shards.index[:0], workers)
    columns, card = (*own, *kept), _card(work, split)
    if dry_run:
        return _estimate(work, columns, shards.holds(card, overwrite))
    shards.claim(card, overwrite)
    judged = "test" if split == "all" else split
    work = replace(work, judged=votes.voted(_of_split(store, shards.index, judged)))
    computed = _fill(work)
    calibration, words = _report(work, judged)
    return PosteriorResult(
        shards.out, len(shards.index), columns, len(shards.parts), computed, time.perf_counter() - started,
        len(members) * max(1, settings.dropout_passes), settings.level, _questions(work),
        judged if calibration else "", calibration, (*card["saw"], *words),
    )


def _of_split(store: Store, index: np.ndarray, split: str) -> np.ndarray:
    own: np.ndarray = index[store.split_codes()[index] == SPLITS.index(split)]
    return own


def _card(work: _Work, split: str) -> dict[str, Any]:
    """What the shards depend on, and what their reader must know."""
    known, store = work.store.columns(), work.store
    return {
        "members": [{"run": member.encoder.name, "digest": member.digest} for member in work.members],
        "schema": work.schema.to_dict(),
        "settings": plain(work.settings),
        "saw": _saw(work),
        "store": store.digest,
        "withdrawn": store.removals_digest,
        "tables": {known[name]: store.table(known[name]).digest for name in work.kept if known[name] != "rows"},
        "votes": work.votes.digests(),
        "split": split,
        "keep": list(work.kept),
        "shard": work.shards.size,
        "samples": len(work.shards.index),
    }


def _saw(work: _Work) -> list[str]:
    said = [
        f"{member.encoder.name} ({member.encoder.card.backbone}, {member.encoder.card.method}) learned from "
        + " ".join(card_sentences(member.encoder.card)) for member in work.members
    ]
    passes = work.settings.dropout_passes
    said.append(
        f"Each run is {passes} passes with the dropout of its head (seed {work.settings.seed}); encoders have none."
        if passes else "Dropout of the head is switched off: each run is one member."
    )
    for question, after in work.members[0].head.left_out.items():
        said.append(f"{question} is asked after {' or '.join(after)}, which the run did not learn: its "
                    "proportion-asked is among those who gave such an answer.")
    return said


def _estimate(work: _Work, columns: tuple[str, ...], held: bool) -> PredictEstimate:
    shards = work.shards
    missing = sum(len(part) for path, part in shards.parts if not (held and path.is_file() and _sums(path).is_file()))
    rows = shards.index[:TIMED]

    def once() -> None:
        _columns(replace(work, workers=0), rows, None)

    seconds = best_time(once, repeats=1) / len(rows) * missing
    return PredictEstimate(len(shards.index), columns, len(shards.parts), missing, seconds)


def _sums(path: Path) -> Path:
    """Where what a shard adds to the calibration is kept, so that a call that resumes need not predict it again."""
    return path.with_name(f"{CALIBRATION}-{path.stem.removeprefix('part-')}.safetensors")


def _fill(work: _Work) -> int:
    from safetensors.numpy import save

    baseline = fit_baseline(work.votes, work.judged)
    judged = np.zeros(len(work.store), bool)
    judged[work.judged] = True
    places = {int(part[0]): path for path, part in work.shards.parts}
    for path in places.values():
        if _read_sums(_sums(path)) is None:
            path.unlink(missing_ok=True)

    def compute(part: np.ndarray, advance: Callable[[int, int], None]) -> dict[str, pa.Array]:
        total: Sums = {}

        def judge(rows: np.ndarray, alpha: np.ndarray) -> None:
            chosen = judged[rows]
            if chosen.any():
                sums = calibration_sums(alpha[:, chosen], work.votes.counts(rows[chosen]), work.schema.groups, baseline,
                                        work.settings.levels)
                total.update({name: values + total.get(name, 0.0) for name, values in sums.items()})

        found = _columns(work, part, advance, judge)
        write_atomic(_sums(places[int(part[0])]), save(total))
        return {**found, **{name: column.take(pa.array(part)) for name, column in work.kept.items()}}

    return work.shards.fill("predict", compute)


def _columns(
    work: _Work, part: np.ndarray, advance: Callable[[int, int], None] | None,
    judge: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> dict[str, pa.Array]:
    """The columns of some samples; concentrations are in memory a few thousand samples at a time."""
    settings = work.settings
    stream = member_concentrations(work.members, work.store, part, settings.dropout_passes, settings.seed, work.workers,
                                   advance)
    pieces = []
    for rows, alpha in stream:
        pieces.append(posterior_columns(alpha, work.schema, settings))
        if judge:
            judge(rows, alpha)
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return {name: pa.array(values) if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            for name, values in columns.items()}


def _read_sums(path: Path) -> Sums | None:
    from safetensors.numpy import load_file

    try:
        found: Sums = load_file(path)
    except (OSError, SafetensorError):
        return None
    return found


def _report(work: _Work, judged: str) -> tuple[tuple[QuestionCalibration, ...], list[str]]:
    """Write the calibration of all shards; what it says, and what it is worth in words."""
    total: Sums = {}
    for path, _ in work.shards.parts:
        total.update({name: values + total.get(name, 0.0) for name, values in (_read_sums(_sums(path)) or {}).items()})
    out = work.shards.out
    if not total:
        for kind in ("json", "csv", "png"):
            (out / f"{CALIBRATION}.{kind}").unlink(missing_ok=True)  # of posteriors that these replace
        held = f" on split={judged}" if work.votes.homes else ""
        return (), [f"The store has no votes on these questions{held}, so calibration is not known."]
    questions = summarise(total, work.schema, work.settings.levels)
    worse = [found.question for found in questions if found.nll > found.baseline_nll]
    words = [f"Worse than one prediction for all samples: {', '.join(worse)}."] if worse else []
    words += _worth(work, judged)
    content = {"split": judged, "samples": len(work.judged), "level": work.settings.level, "worth": words,
               "questions": questions}
    write_atomic(out / f"{CALIBRATION}.json", json.dumps(plain(content), indent=1).encode())
    write_atomic(out / f"{CALIBRATION}.csv", calibration_csv(questions).encode())
    save_figure(calibration_figure(questions, work.settings.level, judged), out / f"{CALIBRATION}.png")
    return questions, words


def _worth(work: _Work, judged: str) -> list[str]:
    """Whether the heads have learned from what they are judged by."""
    test = Side(work.store, work.judged, "judged")
    seen: dict[bool | None, list[str]] = {}
    for member in work.members:
        complete = ancestry(member.encoder.card)[1]
        answer = any_seen(what_was_seen(member.encoder.card, (work.store,), test))
        answer = None if answer is False and not complete else answer
        seen.setdefault(answer, []).append(member.encoder.name)
    columns = [column for name in work.votes.homes for column in work.schema.question(name).columns]
    chosen = Counter(filter(None, chosen_by(work.store, columns, work.judged).tolist()))
    said = []
    if chosen:
        said.append(f"{chosen.total():,} of {len(work.judged):,} of these samples were chosen by "
                    f"{' and '.join(sorted(chosen))}, not at random: the calibration is not that of the survey.")
    if True in seen:
        said.append(f"This is no fair test: samples of split={judged} were in split=train of {', '.join(seen[True])}, "
                    "which may have learned from these votes.")
    if None in seen:
        said.append(f"Whether {', '.join(seen[None])} learned from these samples is unknown: a training store, or a "
                    "run that it started from, is gone or has changed.")
    if not {True, None} & {*seen}:
        said.append("None of these samples was in split=train of a run that is judged by them.")
    return said


def _questions(work: _Work) -> tuple[QuestionPosterior, ...]:
    """Over all shards, one in memory at a time."""
    schema, rows = work.schema, 0
    often, weighted = np.zeros(len(schema.questions)), np.zeros(len(schema.columns))
    widths = [stop - start for start, stop in schema.groups]
    names = [f"{q.name}_proportion-asked" for q in schema.questions], [f"{c}_fraction" for c in schema.columns]
    for path, _ in work.shards.parts:
        table = pq.read_table(path, columns=[*names[0], *names[1]])
        own, fractions = (np.stack([table[n].to_numpy() for n in each], 1).astype(np.float64) for each in names)
        often += own.sum(axis=0)
        weighted += np.nansum(np.repeat(own, widths, axis=1) * fractions, axis=0)
        rows += len(own)
    found = []
    for number, (question, (low, high)) in enumerate(zip(schema.questions, schema.groups, strict=True)):
        shares = weighted[low:high] / max(weighted[low:high].sum(), 1e-300)
        best = int(shares.argmax())
        found.append(QuestionPosterior(question.name, float(often[number] / rows),
                                       question.answers[best] if shares[best] else "", float(shares[best])))
    return tuple(found)


def posteriors_text(result: PosteriorResult) -> str:
    """What was predicted and how it compares with votes, as a table for a terminal, and what members learned from."""
    level = result.level
    rows = [("question", "asked", "leading answer", "fraction",
             *(("voted", "nll", "baseline", f"coverage of {100 * level:g} %") if result.calibration else ()))]
    judged = {found.question: found for found in result.calibration}
    for question in result.questions:
        leading = (question.leading, f"{question.fraction:.3f}") if question.leading else ("(all masked)", "")
        cells = (question.question, f"{question.asked:.3f}", *leading)
        rows.append((*cells, *(_judged_cells(judged.get(question.question), level) if judged else ())))
    notes = list(result.saw)
    if judged:
        notes.insert(0, f"voted: samples of split={result.judged} with votes; nll: of their votes in nats a sample; "
                        "baseline: the best that one prediction for all samples could do; more in "
                        f"{CALIBRATION}.json, .csv and .png.")
    filled = [textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in notes]
    members = f"{result.members} member{'s' if result.members > 1 else ''}"
    return "\n".join([
        *aligned(rows, frozenset({1, 3, 4, 5, 6, 7})), "", *filled,
        f"{result.samples:,} posteriors of {members} in {result.shards} shards ({result.computed:,} computed now, "
        f"{result.seconds:.1f} s): {result.out}",
    ])


def _judged_cells(found: QuestionCalibration | None, level: float) -> tuple[str, ...]:
    if found is None:
        return ("0", "", "", "")
    return (f"{found.samples:,}", f"{found.nll:.3f}", f"{found.baseline_nll:.3f}",
            f"{found.coverage[level]:.3f} ± {found.coverage_error(level):.3f}")
