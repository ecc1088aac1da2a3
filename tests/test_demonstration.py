"""`demo` for real, on little data: it ends with a report, and what it prints are commands that do what it did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl import cli, demonstration
from sciencessl.config import RunConfig
from sciencessl.demonstration import MARKER, DemoResult, demo
from sciencessl.errors import ConfigError, RegistryError, RunError
from sciencessl.flags import given
from sciencessl.registry import load_domain
from sciencessl.train import run as training

SMALL = {
    "backbone": "test_resnet", "batch": 16, "views.size": 32, "steps": 2, "options.hidden": 32, "options.out": 16,
    "compute.workers": 0, "compute.threads": 1, "compute.precision": "float32",
    "compute.memory_format": "contiguous",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Two steps of a tiny encoder in the place of minutes of training; records what was asked for."""
    asked: list[tuple[Any, ...]] = []
    pretrain: Callable[..., Any] = training.pretrain

    def small(data: Path, out: Path, settings: dict[str, Any], tell: Callable[[str], None]) -> Any:
        asked.append((data, out, settings))
        return pretrain(data, out, settings={**settings, **SMALL, "minutes": 0}, tell=tell)

    monkeypatch.setattr("sciencessl.train.run.pretrain", small)
    monkeypatch.setattr(demonstration, "SUBSETS", 2)
    monkeypatch.setattr(demonstration, "RANDOM_ENCODERS", 1)
    return asked


def shown(value: Any) -> Any:
    """A setting as the command line reads it back: words, and numbers as text."""
    return value if isinstance(value, list) else f"{value:g}"


@pytest.mark.parametrize("domain", ["galaxy", "pathology"])
def test_demo_ends_with_a_report_and_prints_what_it_did(
    domain: str, tmp_path: Path, quick: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    result = demo(domain, tmp_path / "a demo", samples=160, minutes=1.5, tell=lines.append)
    assert isinstance(result, DemoResult)
    assert result.report.is_file()
    assert str(result.report) in lines[-1]
    prepared, pretrained, transferred, reported = (
        shlex.split(line)[2:] for line in lines if line[:3] in ("2/5", "3/5", "4/5", "5/5")
    )
    # What is there already is not done again, which the same inputs and settings alone decide.
    assert cli.run(prepared) == 0
    assert f"nothing to do: {result.store} holds all" in capsys.readouterr().out
    assert cli.run([*transferred, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["fits"] == 0
    assert {row["budget"] for row in again["rows"]} == {"10/class", "all"}
    assert reported == ["report", str(result.run)]
    asked = cli._parsers(pretrained)[0].parse_args(pretrained)
    (_, _, settings), typed = quick[0], given(asked, RunConfig)
    assert quick == [(Path(*asked.data), Path(asked.out), settings)]
    assert typed == {"data": [str(result.store)], "method": "", **{n: shown(v) for n, v in settings.items()}}
    assert ("labels" in settings) == (domain == "galaxy")
    seen = json.loads((result.run / "exported/model.json").read_text())["label_columns"]
    assert len(seen) == (34 if domain == "galaxy" else 0)


def test_only_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="mine is not empty and holds no earlier demo; choose another --out"):
        demo("galaxy", mine, samples=10)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (mine / MARKER).write_text("")
    assert demonstration._claim(mine) == mine
    assert [entry.name for entry in mine.iterdir()] == [MARKER]


@pytest.mark.parametrize(
    ("wrong", "message"), [({"samples": 0}, "--samples is 0; it must be 1 or more"), ({"minutes": 0.0}, "above 0")]
)
def test_wrong_numbers(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        demo("web", tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_unknown_domain_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no domain named 'galxy'\. Did you mean 'galaxy'"):
        demo("galxy", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_domain_without_tasks_has_nothing_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(load_domain("web"), tasks=())
    monkeypatch.setattr(demonstration, "load_domain", lambda name: bare)
    with pytest.raises(ConfigError, match="domain 'web' has no few-label task"):
        demo("web", tmp_path / "new")


def test_synthetic_data_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        load_domain("web").synthetic(tmp_path / name, np.random.default_rng(0), 8)
    one, two = (sorted(p.read_bytes() for p in (tmp_path / n).rglob("*.jpg")) for n in "ab")
    assert one == two
