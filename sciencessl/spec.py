"""What a domain says of its samples, labels and tasks: frozen dataclasses of plain values and pure functions.

Nothing here imports torch, reads a file or knows a field of science. A domain builds one `DomainSpec` and is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.transfer_task import PRIMARY_METRICS as PRIMARY_METRICS
from sciencessl.transfer_task import TransferTask as TransferTask

if TYPE_CHECKING:
    from pathlib import Path

    from sciencessl.samples import Sample

API = 1
"""Version of the `DomainSpec` contract. The registry refuses any other with one sentence."""

UNLABELLED = -1
"""Class value of a row without a label. Counts have no such value: an unlabelled row of counts is all zeros."""

ViewRandom = Callable[[int], np.random.Generator]
"""View number -> the Philox generator of that view of this sample in this epoch; the same number, the same draws."""

View = Callable[["Sample", ViewRandom], "list[Sample]"]
"""A sample and its generators -> its views. Of its attributes, if any, `least_px` is field -> shorter side in pixels
from which on no view enlarges an image, so that `decode` may reduce it; `reads` names the fields needed, if not the
primary one alone."""


@dataclass(frozen=True)
class FieldSpec:
    """One field of a sample as the store holds it.

    Attributes:
        kind: `bytes` for an encoded image of any size, `array` for a fixed shape of numbers.
        channels: Names of the channels or bands, in order.
        dtype: NumPy name of the decoded dtype.
        spatial_dims: 2 for images, 1 for signals, 3 for volumes or clips.
        scale_unit: Unit of the pixel scale, such as `arcsec/px` or `um/px`; empty where there is none.
        shape: (H, W) of an `array` field, empty for `bytes`.
        primary: The field that the encoder sees when nothing else is said. Exactly one field is primary.
    """

    kind: Literal["bytes", "array"]
    channels: tuple[str, ...]
    dtype: str = "uint8"
    spatial_dims: int = 2
    scale_unit: str = ""
    shape: tuple[int, ...] = ()
    primary: bool = True


@dataclass(frozen=True)
class ColumnSpec:
    """One per-sample column beside the pixels: its NumPy dtype, unit, role and a sentence for people."""

    name: str
    dtype: str
    role: Literal["position", "group", "quality", "label", "split", "other"] = "other"
    unit: str = ""
    description: str = ""


@dataclass(frozen=True)
class Question:
    """One question put to labellers.

    Attributes:
        name: Full name with its campaign, as in `disk-edge-on-dr5`.
        answers: Answer names, in column order; at least two.
        after: Columns (`question_answer`) of which *any* leads to this question; empty for a root.
    """

    name: str
    answers: tuple[str, ...]
    after: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names, `question_answer`, one an answer."""
        return tuple(f"{self.name}_{answer}" for answer in self.answers)


@dataclass(frozen=True)
class LabelSchema:
    """Questions, their answers, and which answer leads to which question.

    Columns are `question_answer`; the answers of one question are contiguous. A question may have several parents
    (asked after any of them): its probability of being asked is then the sum over the parents' joint probabilities.

    Attributes:
        name: Such as `gzd5`.
        questions: In column order; a parent need not come first.
        aliases: Other spellings of columns found in catalogues -> our column.
        title: One line for people.
        source: Where the schema was read (paper, module, table).

    Raises:
        ConfigError: For repeated names, columns, or parents, fewer than two answers, an alias that is the name of
            another column, an unknown parent, or a cycle.
    """

    name: str
    questions: tuple[Question, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _check_schema(self)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All A answer columns in order."""
        return tuple(column for question in self.questions for column in question.columns)

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Half-open (start, stop) range of columns, one a question."""
        stops = np.cumsum([len(question.answers) for question in self.questions]).tolist()
        return tuple(zip([0, *stops[:-1]], stops, strict=True))

    @cached_property
    def question_of(self) -> dict[str, str]:
        """Answer column -> name of its question."""
        return {column: question.name for question in self.questions for column in question.columns}

    def question(self, name: str) -> Question:
        """The question of that full name, or of that name without its campaign when only one fits.

        Raises:
            ConfigError: When none or several fit.
        """
        exact = [q for q in self.questions if q.name == name]
        loose = exact or [q for q in self.questions if q.name.rpartition("-")[0] == name]
        if len(loose) == 1:
            return loose[0]
        known = [q.name for q in self.questions]
        raise ConfigError(
            f"schema {self.name!r} has no question {name!r}.{did_you_mean(name, known)} Questions: {', '.join(known)}."
        )

    def only(self, names: Sequence[str]) -> LabelSchema:
        """The schema reduced to some questions; a parent that is left out makes its children roots."""
        kept = tuple(self.question(name) for name in names)
        columns = {column for question in kept for column in question.columns}
        trimmed = tuple(Question(q.name, q.answers, tuple(c for c in q.after if c in columns)) for q in kept)
        return LabelSchema(self.name, trimmed, {}, self.title, self.source)

    @cached_property
    def topological(self) -> tuple[Question, ...]:
        """Questions with every parent before its children."""
        done: dict[str, Question] = {}
        waiting = list(self.questions)
        while waiting:
            ready = [q for q in waiting if all(self.question_of[column] in done for column in q.after)]
            done.update({q.name: q for q in ready})
            waiting = [q for q in waiting if q.name not in done]
        return tuple(done.values())

    def asked_probability(self, fractions: np.ndarray) -> np.ndarray:
        """How likely each question is to be asked, from answer fractions.

        P(root) = 1; P(child) = sum over its parents of P(parent's question) * fraction(parent answer), at most 1.

        Args:
            fractions: (..., A), each question's fractions summing to 1.

        Returns:
            (..., Q) in [0, 1], in the order of `questions`.
        """
        position = {column: i for i, column in enumerate(self.columns)}
        asked: dict[str, np.ndarray] = {}
        for question in self.topological:
            if not question.after:
                asked[question.name] = np.ones(fractions.shape[:-1], dtype=np.float64)
                continue
            parts = [asked[self.question_of[c]] * fractions[..., position[c]] for c in question.after]
            asked[question.name] = np.minimum(np.sum(parts, axis=0), 1.0)
        return np.stack([asked[q.name] for q in self.questions], axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` inverts it."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "questions": [asdict(question) for question in self.questions],
            "aliases": dict(self.aliases),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LabelSchema:
        """Build from `to_dict` output."""
        questions = tuple(
            Question(q["name"], tuple(q["answers"]), tuple(q.get("after", ()))) for q in values["questions"]
        )
        return cls(values["name"], questions, dict(values.get("aliases", {})), values.get("title", ""),
                   values.get("source", ""))


def _check_schema(schema: LabelSchema) -> None:
    names = [question.name for question in schema.questions]
    where = f"schema {schema.name!r}"
    if not names:
        raise ConfigError(f"{where} has no questions; give at least one.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"{where} repeats question {repeated[0]!r}; question names must be unique.")
    for question in schema.questions:
        if len(question.answers) < 2 or len(set(question.answers)) < len(question.answers):
            raise ConfigError(
                f"{where}, question {question.name!r}: needs two or more different answers, got {question.answers}."
            )
    _check_columns(schema, where)
    columns = {column: question.name for question in schema.questions for column in question.columns}
    for question in schema.questions:
        if len(set(question.after)) < len(question.after):
            raise ConfigError(
                f"{where}, question {question.name!r}: names a parent twice, {', '.join(question.after)}; the question "
                "would count as asked twice. Name each once."
            )
        for parent in question.after:
            if parent not in columns:
                raise ConfigError(
                    f"{where}, question {question.name!r}: parent {parent!r} is no answer column."
                    f"{did_you_mean(parent, columns)}"
                )
    _check_acyclic(schema, columns)


def _check_columns(schema: LabelSchema, where: str) -> None:
    """One meaning a column: `a_b` may be answer b of a, or the alias of another answer, but not both."""
    meant: dict[str, str] = {}
    for question in schema.questions:
        for answer, column in zip(question.answers, question.columns, strict=True):
            said = f"answer {answer!r} of {question.name!r}"
            if meant.setdefault(column, said) != said:
                raise ConfigError(f"{where}: column {column!r} is {meant[column]} and {said}; rename one of the two.")
    for alias, column in schema.aliases.items():
        if meant.get(alias, "") and alias != column:
            raise ConfigError(
                f"{where}: alias {alias!r} of column {column!r} is {meant[alias]} too; rename or remove the alias."
            )


def _check_acyclic(schema: LabelSchema, question_of: Mapping[str, str]) -> None:
    parents = {q.name: {question_of[column] for column in q.after} for q in schema.questions}
    while True:
        roots = {name for name, above in parents.items() if not above}
        if not roots:
            break
        parents = {name: above - roots for name, above in parents.items() if name not in roots}
    if parents:
        raise ConfigError(f"schema {schema.name!r}: questions {sorted(parents)} lead to each other in a circle.")


@dataclass(frozen=True)
class InputStats:
    """What `to_input` needs to know of the data, fitted on split=train and saved with run and export.

    Attributes:
        mean: Per channel, after scaling and stretching.
        std: Per channel, after scaling and stretching; positive.
        scale: Per channel divisor before the stretch: 255 for uint8, a noise level in flux units for float bands.
        stretch: `linear`, `asinh` or `log`.

    Raises:
        ConfigError: For lengths that differ or a value that is not finite and positive where it must be.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: tuple[float, ...]
    stretch: Literal["linear", "asinh", "log"] = "linear"

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.scale):
            raise ConfigError(
                f"input statistics: mean, std and scale need one value a channel, got {len(self.mean)}, "
                f"{len(self.std)} and {len(self.scale)}."
            )
        if not all(math.isfinite(v) and v > 0 for v in (*self.std, *self.scale)):
            raise ConfigError(f"input statistics: std {self.std} and scale {self.scale} must be finite and positive.")


@dataclass(frozen=True)
class DomainSpec:
    """Everything the engine needs to know of a field of science. Nobody inherits from it.

    Attributes:
        name: Short name, as on the command line.
        title: One line for people.
        fields: Field name -> `FieldSpec`; the store may narrow it (a float stamp instead of a JPEG).
        columns: Per-sample columns that a preparer may fill.
        group: Name of the column whose values must not straddle splits, or empty.
        labels: Schema name -> `LabelSchema`. Empty where the domain has only classes.
        decode: `module:function`, stored bytes or array and its `FieldSpec` -> (H, W, C) array; may take `least_px`.
        to_input: `module:function`, (B, C, H, W) stored dtype and `InputStats` -> float model input.
        label_loss: `module:function`, `LabelSchema` (None for classes) -> the loss of the label head.
        views: Settings -> (train views, evaluation view), run in loader workers on decoded samples.
        display: Sample -> (H, W, 3) uint8 for contact sheets, reports and perceptual hashes.
        tasks: Few-label tasks.
        sources: Name of a source -> preparer (`module:function`), the first being the default.
        synthetic: (folder, rng, n) -> writes a tiny but realistic data set that the default source can read.
        backbone: Default timm name.
        identity: Columns that make two samples the same thing, before any perceptual hash.
        places: `module:function`, two `sciencessl.store.sides.Side` (pool, test) -> iterator of `Nearness`: which
            samples lie so near each other, say on the sky, that they are one thing, or that their images overlap.
        train_options: Frozen dataclass of the domain's training settings (the argument of `views`).
        prepare_options: Frozen dataclass of the domain's preparation settings.
        after_prepare: (sealed store folder, prepare options) -> None: tables a domain adds beside the pixels.
        stretch: How float fields are stretched on the way to the model, where `train_options` has no `stretch`.
        api: Version of this contract.
    """

    name: str
    title: str
    fields: Mapping[str, FieldSpec]
    views: Callable[[Any], tuple[View, View]]
    display: Callable[[Sample], np.ndarray]
    synthetic: Callable[[Path, np.random.Generator, int], Path]
    sources: Mapping[str, str]
    train_options: type
    prepare_options: type
    columns: tuple[ColumnSpec, ...] = ()
    decode: str = "sciencessl.data.decode:decode"
    to_input: str = "sciencessl.views.to_input:standardise"
    label_loss: str = "sciencessl.losses.labels:label_loss"
    group: str = ""
    labels: Mapping[str, LabelSchema] = field(default_factory=dict)
    tasks: tuple[TransferTask, ...] = ()
    backbone: str = "regnety_002"
    identity: tuple[str, ...] = ()
    places: str = ""
    after_prepare: Callable[[Path, Any], None] | None = None
    stretch: Literal["linear", "asinh", "log"] = "asinh"
    api: int = API

    def __post_init__(self) -> None:
        primary = [name for name, spec in self.fields.items() if spec.primary]
        if len(primary) != 1:
            raise ConfigError(f"domain {self.name!r}: exactly one field must be primary, got {primary}.")

    @property
    def primary(self) -> str:
        """Name of the field the encoder sees."""
        return next(name for name, spec in self.fields.items() if spec.primary)
