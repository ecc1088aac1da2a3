"""A run of seconds: nine steps of a tiny encoder on the tiny store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY_SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet", "batch": 8, "steps": 9, "labels": ["smooth", "arms", "class"], "options.hidden": 16,
    "options.out": 8, "views.size": 32, "compute.precision": "float32", "compute.memory_format": "contiguous",
    "compute.threads": 1, "compute.workers": 0, "log.every": 2, "log.monitor_every": 4, "log.checkpoint_every": 3,
}

TinyRun = Callable[..., Any]


def _silent(line: str) -> None:
    pass


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, Any]:
    return dict(TINY_SETTINGS)


@pytest.fixture(scope="session")
def tiny_run(tiny_store: Path) -> TinyRun:
    """`pretrain` on the tiny store; settings given by keyword replace those of the tiny run, `__` for a dot."""
    from sciencessl.train.run import pretrain

    def call(out: Path, data: Any = tiny_store, tell: Callable[[str], None] = _silent, **changes: Any) -> Any:
        own = ("method", "scale", "config", "overwrite", "dry_run", "resume", "processes")
        arguments = {name: changes.pop(name) for name in own if name in changes}
        if arguments.get("resume"):
            return pretrain("" if data == tiny_store else data, out, tell=tell, settings=changes, **arguments)
        settings = {**TINY_SETTINGS, **{name.replace("__", "."): value for name, value in changes.items()}}
        settings = {name: value for name, value in settings.items() if value is not None}
        return pretrain(data, out, tell=tell, settings=settings, **arguments)

    return call


@pytest.fixture(scope="session")
def finished(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of nine uninterrupted steps; do not change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert tiny_run(out).finished
    return out
