"""What pretraining took, and whether runs that are compared took as much: by steps, by images or by hours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sciencessl.errors import ConfigError
from sciencessl.evaluate.report_words import listed

TOLERANCE = 0.05
"""Runs are matched when the largest number is at most this share above the smallest. Source: ours."""

QUANTITIES: Mapping[str, str] = {"steps": "steps", "images": "images_seen", "hours": "device_hours"}
"""What runs can be matched by -> its name in `cost.json`."""

MATCH = (*QUANTITIES, "none")
"""What a comparison can ask for."""

_SHARE = f"{100 * TOLERANCE:g} %"
_NUMBERS = (*QUANTITIES.values(), "peak_memory_bytes", "estimated_operations")
_WAY_OUT = {
    "steps": "Pretrain them with the same --steps",
    "images": "Pretrain them with the same --steps and --batch",
    "hours": "Pretrain them with the same --minutes on one kind of device",
}


@dataclass(frozen=True)
class Cost:
    """What pretraining took: of one run, or the mean over the runs of a method.

    Attributes:
        runs: Runs averaged; 0 for encoders that never learned.
        steps: Optimiser steps; None, as all that follows, where it is not on record of every run.
        images_seen: Images, repeats counted.
        device_hours: Hours of training on `device`.
        device: Kind of device, as torch names it; several with commas between them; empty where unknown.
        peak_memory_bytes: Of the device; of the process on a CPU.
        estimated_operations: Floating-point operations.
    """

    runs: int
    steps: float | None = None
    images_seen: float | None = None
    device_hours: float | None = None
    device: str = ""
    peak_memory_bytes: float | None = None
    estimated_operations: float | None = None

    @property
    def known(self) -> bool:
        """Whether all is on record that runs are matched by."""
        return all(getattr(self, name) is not None for name in QUANTITIES.values())


NO_PRETRAINING = Cost(0, 0, 0, 0, estimated_operations=0)
"""Of encoders that never learned."""


@dataclass(frozen=True)
class Matching:
    """By what pretrained runs are matched.

    Attributes:
        by: Some of `QUANTITIES`.
        unknown: Runs without a cost on record: foreign weights, tables of features.
        sentence: The same in words, with the numbers.
    """

    by: tuple[str, ...]
    unknown: tuple[str, ...]
    sentence: str


def read_cost(values: Mapping[str, Any]) -> Cost:
    """The cost in a run's `cost.json`; what it lacks, or what is no number, is unknown."""
    return Cost(1, device=str(values.get("device") or ""), **{name: _amount(values.get(name)) for name in _NUMBERS})


def _amount(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """The mean over one or more runs; a number that one of them lacks is unknown of all."""
    if len(costs) == 1:
        return costs[0]
    devices = ", ".join(sorted({cost.device for cost in costs} - {""}))
    return Cost(len(costs), device=devices, **{name: _mean([getattr(c, name) for c in costs]) for name in _NUMBERS})


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if len(found) == len(values) else None


def find_matching(runs: Mapping[str, Cost]) -> Matching:
    """By what runs are matched, each with each, within `TOLERANCE`.

    Hours are matched on one kind of device only: an hour elsewhere is another amount of work.

    Args:
        runs: Every pretrained run that is compared -> its cost; seeds of one method are runs of their own.
    """
    known = [cost for cost in runs.values() if cost.known]
    by = tuple(word for word in QUANTITIES if len(known) > 1 and _is_matched(word, known))
    unknown = tuple(name for name, cost in runs.items() if not cost.known)
    return Matching(by, unknown, _sentence(len(runs), known, by, unknown))


def _is_matched(word: str, costs: Sequence[Cost]) -> bool:
    numbers = _values(word, costs)
    return max(numbers) <= (1 + TOLERANCE) * min(numbers) and (word != "hours" or len(_devices(costs)) == 1)


def _values(word: str, costs: Iterable[Cost]) -> list[float]:
    return [getattr(cost, QUANTITIES[word]) for cost in costs]


def _devices(costs: Iterable[Cost]) -> list[str]:
    return sorted({cost.device for cost in costs})


def _sentence(runs: int, known: Sequence[Cost], by: Sequence[str], unknown: Sequence[str]) -> str:
    if runs < 2:
        return "one pretrained run: there is nothing to match" if runs else "no pretrained run is compared"
    if len(known) < 2:
        return f"by what {runs} pretrained runs are matched is unknown: no cost is on record of {listed(unknown)}"
    matched, apart = ([_span(word, known) for word in QUANTITIES if (word in by) is chosen] for chosen in (True, False))
    text = f"{len(known)} pretrained runs are "
    if matched:
        text += f"matched by {listed(matched)} within {_SHARE}{f', not by {listed(apart)}' if apart else ''}"
    else:
        text += f"not matched within {_SHARE}, neither by {' nor by '.join(apart)}"
    return f"{text}; no cost is on record of {listed(unknown)}" if unknown else text


def _span(word: str, costs: Sequence[Cost]) -> str:
    numbers = _values(word, costs)
    ends = dict.fromkeys(amount(value, word) for value in (min(numbers), max(numbers)))
    where = f" on {listed(_devices(costs))}" if word == "hours" and len(_devices(costs)) > 1 else ""
    return f"{word} ({' to '.join(ends)}{where})"


def amount(value: float | None, word: str) -> str:
    """A number of steps, images or hours for people: `76,800`, `0.19`, or `unknown`."""
    if value is None:
        return "unknown"
    return f"{value:.3g}" if word == "hours" else f"{value:,.0f}"


def cost_words(cost: Cost) -> str:
    """`1,200 steps, 76,800 images, 0.19 device-hours on cpu`, or `no cost on record`."""
    if not cost.known:
        return "no cost on record"
    units = {"steps": "steps", "images": "images", "hours": "device-hours"}
    parts = [f"{amount(getattr(cost, QUANTITIES[word]), word)} {unit}" for word, unit in units.items()]
    return ", ".join(parts) + (f" on {cost.device}" if cost.device else "")


def require_matching(match: str, task: str, runs: Mapping[str, Cost], matching: Matching) -> None:
    """Refuse runs that are not matched by what was asked for; one run alone always is.

    Runs without a cost on record are left out, and named wherever the matching is told; but two known ones there must
    be.

    Args:
        match: One of `MATCH`.
        task: Name of the task that the runs are compared on.
        runs: As in `find_matching`.
        matching: What that found.

    Raises:
        ConfigError: The message lists every run with its number.
    """
    if match == "none" or len(runs) < 2 or match in matching.by:
        return
    device = {name: f" on {cost.device}" if match == "hours" and cost.device else "" for name, cost in runs.items()}
    listing = "; ".join(f"{name}: {amount(getattr(cost, QUANTITIES[match]), match)}{device[name]}"
                        for name, cost in runs.items())
    instead = f"they are matched by {listed(matching.by)}" if matching.by else "the table then says what they took"
    shown = "cannot be shown to be" if len(runs) - len(matching.unknown) < 2 else "are not"
    raise ConfigError(
        f"--match {match}: pretrained runs on task {task!r} {shown} matched by {match} within {_SHARE} "
        f"({listing}). {_WAY_OUT[match]}, leave out those that differ, or choose another --match: {instead}."
    )
