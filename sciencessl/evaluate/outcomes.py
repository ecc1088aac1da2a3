"""What the fits of one curve say together: scores of encoders, label subsets and test samples, and a closer look."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.calibration import expected_calibration_error, reliability_table
from sciencessl.evaluate.curves import Curve
from sciencessl.evaluate.fits import Fit
from sciencessl.evaluate.groups import GroupScore, group_table, named_groups
from sciencessl.evaluate.kinds import sample_scores
from sciencessl.evaluate.metrics import LOWER_IS_BETTER, confusion_matrix
from sciencessl.evaluate.plan import Item, Plan
from sciencessl.evaluate.results import Detail
from sciencessl.evaluate.subsets import Budget
from sciencessl.evaluate.tasks import TaskData


@dataclass(frozen=True)
class Outcome:
    """One curve at one budget.

    Attributes:
        scores: (P, R, S, m) score of each test sample in the primary metric, for each of P encoders, R repeats of the
            cross-validation (1 without one) and S label subsets.
        n_labels: Labels used, mean over subsets.
        trials: Settings tried in a fit, mean.
        metrics: Metric -> mean over encoders, subsets and folds.
    """

    scores: np.ndarray
    n_labels: float
    trials: float
    metrics: dict[str, float]


@dataclass
class Gathered:
    """Fits of one curve at one budget as they come.

    Attributes:
        plan: What is asked.
        curve: Of the fits.
        budget: Of the fits.
        encoders: P.
        scores: As in `Outcome`; NaN until the fit comes.
        fits: All of them with what they fitted; their probabilities are dropped but at the largest budget.
    """

    plan: Plan
    curve: Curve
    budget: Budget
    encoders: int
    scores: np.ndarray = field(init=False)
    fits: list[tuple[int, Item, Fit]] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        repeats = 1 + max(part.repeat for part in plan.parts)
        subsets = len(plan.seeds(self.budget, self.curve.arm))
        self.scores = np.full((self.encoders, repeats, subsets, len(plan.data.test)), np.nan, np.float32)

    def add(self, number: int, item: Item, fit: Fit) -> None:
        """Take in the fit of encoder `number`."""
        part = item.part
        self.scores[number, part.repeat, item.seed, part.place] = sample_scores(part.data, fit.probabilities)
        looked_at = self.budget == self.plan.largest_budget(self.curve.arm)
        kept = fit.probabilities if looked_at else np.zeros((0, 0), np.float32)
        self.fits.append((number, item, replace(fit, probabilities=kept, head=None, encoder=None)))

    def outcome(self) -> Outcome:
        """When all fits have come."""
        fits = [fit for _, _, fit in self.fits]
        return Outcome(
            self.scores, float(np.mean([fit.n_labels for fit in fits])), float(np.mean([fit.trials for fit in fits])),
            {name: float(np.mean([fit.metrics[name] for fit in fits])) for name in fits[0].metrics},
        )

    def detail(self, by: str) -> Detail:
        """A closer look, with the score by groups of the column `by` where it is not empty."""
        data, single = self.plan.data, self.plan.data.task.kind in ("class", "bag")
        detail = Detail(self.curve.name, self.curve.arm, str(self.budget), groups=self._groups(by) if by else ())
        if not single:
            return detail
        probabilities, temperature = self._calibrated()
        labels = data.test_labels
        shares = [confusion_matrix(fit.probabilities, item.part.data.test_labels) for _, item, fit in self.fits]
        copies = self.scores[..., 0].size  # each test sample is scored once for each encoder, repeat and subset
        return replace(
            detail, temperature=temperature, reliability=reliability_table(probabilities, labels),
            calibration_error=expected_calibration_error(probabilities, labels),
            confusion=tuple(map(tuple, (np.sum(shares, axis=0) / copies).tolist())),
        )

    def _calibrated(self) -> tuple[np.ndarray, float | None]:
        """(m, K) probabilities of the first encoder and subset, each at its temperature, and the mean temperature."""
        data = self.plan.data
        found = np.zeros((len(data.test), len(data.classes)))
        temperatures = []
        for number, item, fit in self.fits:
            if number == 0 and item.seed == 0 and item.part.repeat == 0:
                found[item.part.place] = tempered_probabilities(fit.probabilities, fit.temperature or 1.0)
                temperatures.append(fit.temperature)
        known = [value for value in temperatures if value is not None]
        return found, float(np.mean(known)) if known else None

    def _groups(self, by: str) -> tuple[GroupScore, ...]:
        """The score in each group, averaged over encoders, over label subsets and units: for these checkpoints."""
        plan = self.plan
        values = plan.test_store.column(by)[plan.data.test]
        names, place = named_groups(values)
        scores = self._within(place, len(names)).mean(axis=0)
        strata = plan.data.test_labels if plan.data.task.metric == "balanced_accuracy" else None
        return group_table(scores.reshape(-1, scores.shape[-1]), strata, plan.data.test_units, values,
                           plan.data.task.metric in LOWER_IS_BETTER)

    def _within(self, place: np.ndarray, count: int) -> np.ndarray:
        """(P, R, S, m) scores, each sample's among its group: ranks, such as those behind average precision, are taken
        inside the group. NaN where a group shows nothing to score."""
        scores = np.full_like(self.scores, np.nan)
        for number, item, fit in self.fits:
            part = item.part
            own = np.full(len(part.place), np.nan)
            for group in range(count):
                rows = np.flatnonzero(place[part.place] == group)
                if len(rows):
                    own[rows] = _scored(part.data, fit.probabilities, rows)
            scores[number, part.repeat, item.seed, part.place] = own
        return scores


def tempered_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T): (m, K) probabilities at a temperature; 0 stays 0."""
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities.astype(np.float64)) / temperature
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    found: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return found


def _scored(data: TaskData, probabilities: np.ndarray, rows: np.ndarray) -> np.ndarray | float:
    try:
        return sample_scores(data.take_test(rows), probabilities[rows])
    except DataError:
        return float("nan")
