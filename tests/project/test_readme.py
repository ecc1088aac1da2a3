"""The commands that README and CONTRIBUTING show are commands: every verb, flag, recipe and setting in them exists."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from sciencessl import cli
from sciencessl.config import RunConfig
from sciencessl.explanation import explain
from sciencessl.flags import given

ROOT = Path(__file__).parents[2]
DOMAIN_OF = {"sdss": "galaxy", "lung": "pathology", "clothing": "web"}
"""Store of the README -> the domain that it is prepared for there."""


def commands() -> list[str]:
    """Lines of code blocks that start with our name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [line for block in re.findall(r"```\w*\n(.*?)```", text, re.S) for line in block.splitlines()
            if line.startswith("sciencessl ")]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Every command ends where its function would be called, and leaves what it was given here."""
    found: list[argparse.Namespace] = []
    for name, verb in cli.VERBS.items():
        monkeypatch.setitem(cli.VERBS, name, verb._replace(run=lambda args: found.append(args) or 0))
    return found


def test_there_are_commands_for_each_domain() -> None:
    text = "\n".join(commands())
    assert all(f"prepare {domain} " in text and f"stores/{name}.zarr" in text for name, domain in DOMAIN_OF.items())


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_are_understood(
    command: str, parsed: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run(shlex.split(command)[1:])
    assert code == 0, capsys.readouterr().err
    (args,) = parsed
    if args.verb == "pretrain":
        domain = DOMAIN_OF[Path(args.data).stem]
        settings = {name: value for name, value in given(args, RunConfig).items() if name not in ("data", "method")}
        assert explain(domain=domain, method=args.method, config=args.config, settings=settings | args.settings)


def test_a_command_that_does_not_exist_would_be_noticed(parsed: list[argparse.Namespace]) -> None:
    assert cli.run(["pretrain", "--data", "x", "--out", "y", "--minuets", "8"]) == 2
    assert cli.run(["transfer", "runs/byol", "--store", "x", "--out", "y"]) == 2
    assert not parsed
