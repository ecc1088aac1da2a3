"""What the tests of all domains need: which operations a domain's training views apply, drawn as in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.spec import DomainSpec

DRAWS = 5000


def within_binomial_bounds(hits: np.ndarray, rate: float) -> bool:
    """Whether the mean of (n,) bool hits is within four standard errors of a rate."""
    return bool(abs(hits.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / hits.size))


@pytest.fixture(scope="session")
def has_rate() -> Callable[[np.ndarray, float], bool]:
    return within_binomial_bounds


@pytest.fixture(scope="session")
def applied() -> Callable[..., tuple[list[str], np.ndarray]]:
    """(domain, settings, image) -> names of the operations, and (views, draws, operations) bool: which were applied."""

    def draw(spec: DomainSpec, settings: Any, image: np.ndarray) -> tuple[list[str], np.ndarray]:
        made: Any = spec.views(settings)[0]
        pipelines = made.pipelines
        parts = [getattr(pipeline, "_stamp", pipeline) for pipeline in pipelines]
        names = [type(transform).__name__ for transform in parts[0].transforms]
        flags = np.zeros((len(parts), DRAWS, len(names)), dtype=bool)
        for view, (pipeline, part) in enumerate(zip(pipelines, parts, strict=True)):
            for i in range(DRAWS):
                pipeline(image, augmentation_rng(seed=0, epoch=0, index_or_key=i, view=view))
                flags[view, i] = [bool(transform.params) for transform in part.transforms]
        return names, flags

    return draw
