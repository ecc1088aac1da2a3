"""Measured choices: the default stays unless it loses by more than 10 %, and nothing measured leaves a trace."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from sciencessl.train import measure
from sciencessl.train.measure import best_time, choose

CPU = torch.device("cpu")
Rates = Mapping[tuple[str, str], float]


def with_rates(monkeypatch: pytest.MonkeyPatch, rates: Rates) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def rate(encoder: Any, shape: Any, precision: str, memory_format: str, device: Any) -> float:
        asked.append((precision, memory_format))
        return rates.get((precision, memory_format), 1.0)

    monkeypatch.setattr(measure, "_images_per_second", rate)
    return asked


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({("float32", "contiguous"): 100.0}, ("float32", "contiguous")),
        ({("float32", "contiguous"): 100.0, ("bfloat16", "channels_last"): 110.0}, ("float32", "contiguous")),
        ({("float32", "contiguous"): 100.0, ("bfloat16", "channels_last"): 110.2}, ("bfloat16", "channels_last")),
        ({("float32", "contiguous"): 100.0, ("float32", "channels_last"): 150.0, ("bfloat16", "channels_last"): 140.0},
         ("float32", "channels_last")),
    ],
)
def test_only_a_gain_above_ten_percent_replaces_the_default(
    rates: Rates, chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = with_rates(monkeypatch, rates)
    found = choose(nn.Identity(), (2, 3, 8, 8), "auto", "auto", CPU)
    assert (found.precision, found.memory_format) == chosen
    assert len(asked) == 4
    assert found.measured["float32/contiguous"] == 100.0


def test_what_is_given_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_rates(monkeypatch, {})
    found = choose(nn.Identity(), (2, 3, 8, 8), "bfloat16", "channels_last", CPU)
    assert (found.precision, found.memory_format, found.measured) == ("bfloat16", "channels_last", {})
    assert asked == []
    choose(nn.Identity(), (2, 3, 8, 8), "float32", "auto", CPU)
    assert asked == [("float32", "contiguous"), ("float32", "channels_last")]


def test_measuring_leaves_the_encoder_and_the_generator_as_they_were() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    before, state = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        found = choose(encoder, (2, 3, 8, 8), "auto", "auto", CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(rate > 0 for rate in found.measured.values())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    assert next(encoder.parameters()).is_contiguous()


def test_the_best_time_is_the_fastest_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    clock = iter([0.0, 0.0, 0.4, 0.4, 0.4, 0.5, 0.5, 0.5, 0.7])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert best_time(lambda: calls.append(1), repeats=3) == pytest.approx(0.1)
    assert len(calls) == 4


def test_patience_ends_a_slow_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def slow() -> None:
        calls.append(1)
        now[0] += 5.0

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    assert best_time(slow, repeats=3, patience=1.0) == 5.0
    assert len(calls) == 2


def test_what_has_no_room_is_timed_on_half_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, str]] = []

    def rate(encoder: Any, shape: Any, precision: str, memory_format: str, device: Any) -> float:
        tried.append((shape[0], precision))
        if shape[0] > (2 if precision == "float32" else 9):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"float32": 10.0, "bfloat16": 30.0}[precision]

    monkeypatch.setattr(measure, "_images_per_second", rate)
    found = choose(nn.Identity(), (9, 3, 8, 8), "auto", "contiguous", CPU)
    assert (found.precision, found.images) == ("bfloat16", 2)  # both on as many: float32 has no room for more
    assert tried == [(9, "float32"), (4, "float32"), (2, "float32"), (2, "bfloat16")]
    monkeypatch.setattr(measure, "_images_per_second", lambda *given: rate(None, (3,), "float32", "", CPU))
    with pytest.raises(torch.OutOfMemoryError):
        choose(nn.Identity(), (4, 3, 8, 8), "auto", "contiguous", CPU)


def test_on_the_cpu_a_busy_machine_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of processor time for 8 images on 2 threads, however long the clock ran."""
    processor, now = iter([0.0, 2.0]), itertools.count()
    monkeypatch.setattr(measure.time, "process_time", lambda: next(processor))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: 1e3 * next(now))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    encoder = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    assert measure._images_per_second(encoder, (8, 3, 4, 4), "float32", "contiguous", CPU) == 8.0
