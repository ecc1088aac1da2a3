"""Draw volunteers' votes: down the tree of a schema, for synthetic galaxies and for real ones that have only a class.

Votes drawn for real images are *simulated votes on real images*, and everything that is made from them must say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import LabelSchema, Question

SIMULATED = "simulated votes on real images"
"""What votes of `votes_from_class` are to be called in every table, plot and report."""

# Mean fractions in answer order, ours: what we would expect of volunteers shown a galaxy that Galaxy Zoo 1 put in the
# class with a clear majority. Not fitted to any campaign. A fraction of a later question is conditional on being asked.
_ANSWERS: Mapping[str, tuple[str, ...]] = {
    "smooth-or-featured": ("smooth", "featured-or-disk", "artifact"),
    "disk-edge-on": ("yes", "no"),
    "has-spiral-arms": ("yes", "no"),
    "merging": ("none", "minor-disturbance", "major-disturbance", "merger"),
}
_SPIRAL = {
    "smooth-or-featured": (0.12, 0.86, 0.02),
    "disk-edge-on": (0.04, 0.96),
    "has-spiral-arms": (0.92, 0.08),
    "merging": (0.82, 0.12, 0.04, 0.02),
}
CLASS_FRACTIONS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "elliptical": {
        "smooth-or-featured": (0.84, 0.13, 0.03),
        "disk-edge-on": (0.15, 0.85),
        "has-spiral-arms": (0.20, 0.80),
        "merging": (0.88, 0.08, 0.02, 0.02),
    },
    "edge-on": {
        "smooth-or-featured": (0.25, 0.73, 0.02),
        "disk-edge-on": (0.90, 0.10),
        "has-spiral-arms": (0.35, 0.65),
        "merging": (0.88, 0.08, 0.02, 0.02),
    },
    "spiral-clockwise": _SPIRAL,
    "spiral-anticlockwise": _SPIRAL,
    "merger": {
        "smooth-or-featured": (0.38, 0.56, 0.06),
        "disk-edge-on": (0.15, 0.85),
        "has-spiral-arms": (0.40, 0.60),
        "merging": (0.08, 0.15, 0.22, 0.55),
    },
    "dont-know": {
        "smooth-or-featured": (0.48, 0.40, 0.12),
        "disk-edge-on": (0.25, 0.75),
        "has-spiral-arms": (0.40, 0.60),
        "merging": (0.72, 0.16, 0.07, 0.05),
    },
}
"""Galaxy Zoo 1 class -> question without campaign -> mean answer fractions in answer order. Ours, fitted to nothing."""

CONCENTRATION: Mapping[str, float] = {
    "elliptical": 12.0,
    "edge-on": 12.0,
    "spiral-clockwise": 12.0,
    "spiral-anticlockwise": 12.0,
    "merger": 4.0,
    "dont-know": 4.0,
}
"""Sum of the Dirichlet parameters that a galaxy's own fractions are drawn from: smaller is broader. Ours.

A fraction with mean p varies between galaxies of a class by sqrt(p (1 - p) / (concentration + 1)): for p = 0.84 by 0.10
in a firm class, 0.16 in the two vague ones.
"""


def simulate_votes(
    schema: LabelSchema, fractions: np.ndarray, volunteers: int | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Send volunteers down the tree of a schema; each picks one answer of every question that they are asked.

    A question is put to as many volunteers as its parent answers got votes together, a root to all of them.

    Args:
        schema: With A answer columns.
        fractions: (N, A) true fractions, each question's summing to 1; conditional on being asked.
        volunteers: How many look at each galaxy, one number or (N,), 0 or more. 0 gives a row of zeros.
        rng: Source of the draws; questions are drawn in topological order.

    Returns:
        (N, A) int64 votes.

    Raises:
        DataError: For a wrong shape, a fraction that is negative or not finite, sums other than 1 (to 1e-6), or a
            number of volunteers that is not a whole number of 0 or more.
    """
    shares = _checked_fractions(schema, fractions)
    looking = _checked_volunteers(volunteers, len(shares))
    position = {column: i for i, column in enumerate(schema.columns)}
    votes = np.zeros(shares.shape, dtype=np.int64)
    for question in schema.topological:
        parents = [position[column] for column in question.after]
        asked = votes[:, parents].sum(axis=1) if parents else looking
        start = position[question.columns[0]]
        block = slice(start, start + len(question.answers))
        votes[:, block] = rng.multinomial(asked, shares[:, block])
    return votes


def votes_from_class(
    schema: LabelSchema,
    class_values: Sequence[object],
    rng: np.random.Generator,
    volunteers: tuple[int, int] = (20, 40),
    concentration: Mapping[str, float] = CONCENTRATION,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw simulated votes on real images from each image's Galaxy Zoo 1 class.

    For each galaxy: fractions from a Dirichlet around `CLASS_FRACTIONS` of its class, a number of volunteers, then
    `simulate_votes`. Both spiral classes have the same means: no question asks for handedness. Ours, fitted to nothing.

    Args:
        schema: Questions that the class says something about (same name without campaign, same answers as gzd5's
            smooth-or-featured, disk-edge-on, has-spiral-arms and merging) get votes; all others stay at zero. Pass
            `schema.only(names)` for fewer columns.
        class_values: N classes. A value that is not in `CLASS_FRACTIONS` gives a row of zeros, an unlabelled galaxy.
        rng: Source of the draws.
        volunteers: Least and greatest number of volunteers for a galaxy, uniform, both included.
        concentration: Class -> sum of Dirichlet parameters, positive.

    Returns:
        (N, A) int64 votes in the order of `schema.columns`, and a description for provenance: what they are, seed,
        parameters, and how many galaxies of each class (and of none) there were. Its values are plain JSON.

    Raises:
        ConfigError: When the class says nothing about any question of the schema, or a parameter is out of range.
    """
    told = [question for question in schema.questions if _ANSWERS.get(_bare(question)) == question.answers]
    _check_parameters(schema, told, volunteers, concentration)
    description = _describe(schema, told, rng, volunteers, concentration)
    classes = np.asarray([str(value) if str(value) in CLASS_FRACTIONS else "" for value in class_values], dtype=object)
    part = schema.only([question.name for question in told])
    shares = _galaxy_fractions(part, classes, concentration, rng)
    looking = rng.integers(volunteers[0], volunteers[1] + 1, size=len(classes)) * (classes != "")
    votes = np.zeros((len(classes), len(schema.columns)), dtype=np.int64)
    votes[:, [schema.columns.index(column) for column in part.columns]] = simulate_votes(part, shares, looking, rng)
    description["galaxies"] = {name: int(np.sum(classes == name)) for name in CLASS_FRACTIONS}
    description["without_class"] = int(np.sum(classes == ""))
    return votes, description


def _bare(question: Question) -> str:
    name = question.name
    return name if name in _ANSWERS else name.rpartition("-")[0]


def _galaxy_fractions(
    schema: LabelSchema, classes: np.ndarray, concentration: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    shares = np.zeros((len(classes), len(schema.columns)))
    for question, (start, stop) in zip(schema.questions, schema.groups, strict=True):
        shares[:, start] = 1.0
        for name, means in CLASS_FRACTIONS.items():
            rows = np.flatnonzero(classes == name)
            weights = concentration[name] * np.asarray(means[_bare(question)])
            shares[rows, start:stop] = rng.dirichlet(weights, size=len(rows))
    return shares


def _describe(
    schema: LabelSchema,
    told: Sequence[Question],
    rng: np.random.Generator,
    volunteers: tuple[int, int],
    concentration: Mapping[str, float],
) -> dict[str, Any]:
    seed_seq = getattr(rng.bit_generator, "seed_seq", None)
    state = hashlib.blake2b(repr(rng.bit_generator.state).encode(), digest_size=16).hexdigest()
    return {
        "what": SIMULATED,
        "schema": schema.name,
        "questions": [question.name for question in told],
        "generator": type(rng.bit_generator).__name__,
        "seed": getattr(seed_seq, "entropy", None),
        "spawn_key": list(getattr(seed_seq, "spawn_key", ())),
        "state_before": state,
        "volunteers": list(volunteers),
        "concentration": {name: float(concentration[name]) for name in CLASS_FRACTIONS},
        "class_fractions": {
            name: {_bare(q): list(means[_bare(q)]) for q in told} for name, means in CLASS_FRACTIONS.items()
        },
    }


def _check_parameters(
    schema: LabelSchema, told: Sequence[Question], volunteers: tuple[int, int], concentration: Mapping[str, float]
) -> None:
    if not told:
        raise ConfigError(
            f"schema {schema.name!r}: a Galaxy Zoo 1 class says nothing about its questions "
            f"({', '.join(q.name for q in schema.questions)}). Use one with {', '.join(_ANSWERS)} as in gzd5."
        )
    if not 0 <= volunteers[0] <= volunteers[1]:
        raise ConfigError(f"volunteers: expected (least, greatest) with 0 <= least <= greatest, got {volunteers}.")
    wrong = [name for name in CLASS_FRACTIONS if not concentration.get(name, 0.0) > 0]
    if wrong:
        raise ConfigError(f"concentration: needs a positive number for each class; wrong or missing: {wrong}.")


def _checked_fractions(schema: LabelSchema, fractions: np.ndarray) -> np.ndarray:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 2 or shares.shape[1] != len(schema.columns):
        raise DataError(
            f"fractions: schema {schema.name!r} needs shape (N, {len(schema.columns)}), got {shares.shape}."
        )
    if not np.all(np.isfinite(shares)) or np.any(shares < 0):
        raise DataError("fractions: every value must be finite and 0 or more.")
    out = np.empty_like(shares)
    for question, (start, stop) in zip(schema.questions, schema.groups, strict=True):
        total = shares[:, start:stop].sum(axis=1, keepdims=True)
        if np.any(np.abs(total - 1.0) > 1e-6):
            row = int(np.argmax(np.abs(total - 1.0)))
            raise DataError(f"fractions: those of {question.name!r} sum to {total[row, 0]:.6g} in row {row}, not to 1.")
        # multinomial refuses sums a rounding error above 1.
        out[:, start:stop] = shares[:, start:stop] / total
    return out


def _checked_volunteers(volunteers: int | np.ndarray, n: int) -> np.ndarray:
    looking = np.asarray(volunteers)
    if looking.shape not in ((), (n,)) or not np.issubdtype(looking.dtype, np.integer) or np.any(looking < 0):
        raise DataError(
            f"volunteers: expected one whole number of 0 or more, or {n} of them, got {looking.dtype} of shape "
            f"{looking.shape}."
        )
    return np.broadcast_to(looking, (n,))
