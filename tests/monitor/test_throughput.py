"""Rates of a clock that is held still, and progress where there is no terminal."""

from __future__ import annotations

import sys

import pytest

from sciencessl.monitor.throughput import Progress, Throughput


def test_rates_and_waiting_are_those_of_the_window() -> None:
    now = [0.0]
    counter = Throughput(clock=lambda: now[0])
    for _ in range(2):
        now[0] += 1.0  # waiting for the batch
        counter.begin()
        now[0] += 3.0  # computing
        counter.end(40)
    assert counter.read() == {"images_per_s": 10.0, "data_wait": 0.25}
    now[0] += 5.0
    counter.begin()
    now[0] += 5.0
    counter.end(50)
    assert counter.read() == {"images_per_s": 5.0, "data_wait": 0.5}


def test_images_of_all_processes_count_and_efficiency_is_a_share_of_what_they_could_do(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    counter = Throughput(4, lambda: now[0], supervised=100.0)
    now[0] += 2.0
    counter.begin()
    counter.end(60)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 2**30)
    # 4 x 60 images in 2 s are 120/s: in forwards 960/s, of the 1200/s that four processes do at 100 images of three.
    assert counter.read() == {"images_per_s": 120.0, "data_wait": 1.0, "efficiency": 0.8,
                              "peak_memory_bytes": 2**30}


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(4, done=1, unit="step", every=0.0, title="pretrain")
    progress.update(2, "loss 1.0")
    progress.update(4)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("pretrain 2/4 steps, ")
    assert lines[0].endswith("s left  loss 1.0")
    assert lines[1] == "pretrain 4/4 steps, 0 s left"


def test_plain_lines_are_rare_and_the_last_one_always_comes(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, every=1000.0)
    for done in range(1, 101):
        progress.update(done)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_on_a_terminal_there_is_one_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(4, title="pretrain")
    progress.update(3, "loss 2.0")
    progress.update(4)
    progress.close()
    err = capsys.readouterr().err
    assert "pretrain: 100%" in err
    assert "4/4" in err
