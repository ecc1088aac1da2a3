"""What pretraining took is read with care, and runs are called matched only where the numbers say so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from sciencessl.errors import ConfigError
from sciencessl.evaluate.matching import (
    MATCH,
    NO_PRETRAINING,
    Cost,
    cost_words,
    find_matching,
    mean_cost,
    read_cost,
    require_matching,
)

CostFactory = Callable[..., dict[str, Any]]


def _cost(steps: float, images: float, hours: float, device: str = "cpu") -> Cost:
    return Cost(1, steps, images, hours, device)


def test_a_cost_is_read_as_it_stands(make_cost: CostFactory) -> None:
    assert read_cost(make_cost(1200, 0.19)) == Cost(1, 1200, 76_800, 0.19, "cpu", 2**30, 1.2e12)


@pytest.mark.parametrize("value", [None, "many", True, math.inf, [3]])
def test_what_is_no_number_is_unknown(value: Any, make_cost: CostFactory) -> None:
    cost = read_cost({**make_cost(), "steps": value})
    assert cost.steps is None
    assert not cost.known
    assert cost_words(cost) == "no cost on record"


def test_a_run_that_has_only_begun_has_no_cost() -> None:
    assert not read_cost({"operations_per_image": 1e9, "wall_seconds": 0.0, "tuning_trials": 0}).known
    assert not read_cost({}).known
    assert NO_PRETRAINING.known


def test_the_cost_of_a_method_is_the_mean_over_its_runs(make_cost: CostFactory) -> None:
    runs = [read_cost(make_cost(steps, hours, device)) for steps, hours, device in
            ((1000, 0.1, "cuda"), (1100, 0.2, "cpu"), (1500, 0.6, "cpu"))]
    cost = mean_cost(runs)
    assert (cost.runs, cost.steps, cost.images_seen, cost.device) == (3, 1200, 76_800, "cpu, cuda")
    assert cost.device_hours == pytest.approx(0.3)
    assert mean_cost(runs[:1]) == runs[0]


def test_a_mean_over_runs_of_unknown_cost_is_unknown(make_cost: CostFactory) -> None:
    cost = mean_cost([read_cost(make_cost()), read_cost({})])
    assert (cost.runs, cost.steps, cost.device_hours) == (2, None, None)


@pytest.mark.parametrize(("other", "by"), [
    (_cost(1000, 64_000, 0.2), ("steps", "images", "hours")),
    (_cost(1050, 64_000, 0.2), ("steps", "images", "hours")),
    (_cost(1051, 64_000, 0.2), ("images", "hours")),
    (_cost(952, 64_000, 0.2), ("images", "hours")),
    (_cost(953, 64_000, 0.2), ("steps", "images", "hours")),
    (_cost(2000, 64_000, 0.4), ("images",)),
    (_cost(1000, 128_000, 0.4), ("steps",)),
    (_cost(500, 32_000, 0.2), ("hours",)),
    (_cost(500, 32_000, 0.2, "cuda"), ()),
    (_cost(500, 32_000, 0.3), ()),
])  # fmt: skip
def test_runs_within_five_percent_are_matched(other: Cost, by: tuple[str, ...]) -> None:
    one = _cost(1000, 64_000, 0.2)
    assert find_matching({"a": one, "b": other}).by == by
    assert find_matching({"b": other, "a": one}).by == by


def test_every_seed_of_a_method_must_match() -> None:
    runs = {name: _cost(1000, 64_000, hours) for name, hours in (("byol-1", 0.2), ("byol-2", 0.3), ("hybrid", 0.25))}
    assert find_matching(runs).by == ("steps", "images")


def test_the_sentence_has_the_numbers() -> None:
    one, two = _cost(1000, 64_000, 0.19), _cost(1020, 65_280, 0.25)
    assert find_matching({"a": one, "b": two}).sentence == (
        "2 pretrained runs are matched by steps (1,000 to 1,020) and images (64,000 to 65,280) within 5 %, not by "
        "hours (0.19 to 0.25)"
    )
    assert find_matching({"a": one, "b": one}).sentence == (
        "2 pretrained runs are matched by steps (1,000), images (64,000) and hours (0.19) within 5 %"
    )
    apart = find_matching({"a": one, "b": _cost(2000, 128_000, 0.19, "cuda")}).sentence
    assert apart == (
        "2 pretrained runs are not matched within 5 %, neither by steps (1,000 to 2,000) nor by images (64,000 to "
        "128,000) nor by hours (0.19 on cpu and cuda)"
    )


def test_runs_of_unknown_cost_are_named() -> None:
    one = _cost(1000, 64_000, 0.19)
    found = find_matching({"a": one, "vit": Cost(1), "b": one})
    assert (found.by, found.unknown) == (("steps", "images", "hours"), ("vit",))
    assert found.sentence.startswith("2 pretrained runs are matched")
    assert found.sentence.endswith("; no cost is on record of vit")
    lone = find_matching({"a": one, "vit": Cost(1)})
    assert lone.by == ()
    assert lone.sentence == "by what 2 pretrained runs are matched is unknown: no cost is on record of vit"


def test_one_run_has_nothing_to_match() -> None:
    assert find_matching({"a": Cost(1)}).sentence == "one pretrained run: there is nothing to match"
    assert find_matching({}).sentence == "no pretrained run is compared"
    for match in MATCH:
        require_matching(match, "t", {"a": Cost(1)}, find_matching({"a": Cost(1)}))


def test_a_refusal_lists_every_run_with_its_number() -> None:
    runs = {"a": _cost(1000, 64_000, 0.2), "b": _cost(1000, 128_000, 0.2, "cuda"), "vit": Cost(1)}
    matching = find_matching(runs)
    require_matching("steps", "t", runs, matching)
    require_matching("none", "t", runs, matching)
    with pytest.raises(ConfigError) as refused:
        require_matching("images", "t", runs, matching)
    assert str(refused.value) == (
        "--match images: pretrained runs on task 't' are not matched by images within 5 % (a: 64,000; b: 128,000; "
        "vit: unknown). Pretrain them with the same --steps and --batch, leave out those that differ, or choose "
        "another --match: they are matched by steps."
    )
    with pytest.raises(ConfigError, match=r"\(a: 0.2 on cpu; b: 0.2 on cuda; vit: unknown\).*the same --minutes"):
        require_matching("hours", "t", runs, matching)


def test_what_is_unknown_cannot_be_shown_to_match() -> None:
    runs = {"a": _cost(1000, 64_000, 0.2), "vit": Cost(1)}
    with pytest.raises(ConfigError, match=r"cannot be shown to be matched by steps.*\(a: 1,000; vit: unknown\)"):
        require_matching("steps", "t", runs, find_matching(runs))
