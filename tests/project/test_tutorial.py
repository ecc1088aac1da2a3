"""The galaxy tutorial is run: its Python and its commands, in order, on a smaller survey with fewer steps."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from PIL import Image

from sciencessl import cli

PAGE = Path(__file__).parents[2] / "docs/tutorials/galaxy_survey.md"

SMALLER = {"default_rng(0), 400": "default_rng(0), 90", "--steps 30": "--steps 2", "--subsets 3": "--subsets 2",
           "--n 20": "--n 10"}  # fmt: skip
"""What the page says -> what the test does instead, to be quick."""
ADDED = {
    "pretrain": "--backbone test_resnet --batch 16 --views.size 32 --options.hidden 32 --options.out 16 "
    "--compute.workers 0 --compute.threads 1 --compute.precision float32 --compute.memory_format contiguous",
    "select": "--png-px 64",
}
"""Verb -> what the test adds: a tiny encoder, one thread, small pictures."""


class Block(NamedTuple):
    """A code block: language, empty for commands, and what is in it."""

    language: str
    text: str


def blocks() -> list[Block]:
    """All code blocks of the page in order, made smaller."""
    text = PAGE.read_text(encoding="utf-8")
    for page, smaller in SMALLER.items():
        assert page in text, page
        text = text.replace(page, smaller)
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]


def pattern(line: str) -> str:
    """A line of output whose numbers may differ, and whose columns may be as wide as they like."""
    words = (re.sub(r"\d[\d.,]*", r"[\\d.,]+", re.escape(word).replace(r"\.", ".")) for word in line.split())
    return r"\s+".join(words)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """The folder where all was run, and (expected line, what the commands before it said)."""
    folder, before = tmp_path_factory.mktemp("tutorial"), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        expected = run(blocks())
    assert Path.cwd() == before
    return folder, expected


def run(all_blocks: list[Block]) -> list[tuple[str, str]]:
    """Run blocks in the current folder."""
    expected, said = [], ""
    for language, text in all_blocks:
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
        elif language == "text":
            expected += [(line, said) for line in text.splitlines()]
        else:
            said = "".join(command(line) for line in text.splitlines())
    return expected


def command(line: str) -> str:
    """Run one command line; returns what it printed."""
    words = shlex.split(line)
    assert words[0] == "sciencessl"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([*words[1:], *shlex.split(ADDED.get(words[1], ""))])
    assert code == 0, f"{line}\n{err.getvalue()}"
    return out.getvalue() + err.getvalue()


def test_commands_say_what_the_page_says(shown: tuple[Path, list[tuple[str, str]]]) -> None:
    _, expected = shown
    assert len(expected) > 12
    for line, said in expected:
        assert re.search(pattern(line), said), f"{line!r} is not in what was said:\n{said}"


def test_files_are_where_the_page_says(shown: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, _ = shown
    posteriors = pq.read_table(folder / "posteriors/part-00000.parquet")
    assert posteriors.num_rows == 90
    assert min(Image.open(folder / "sheet.png").size) > 100
    assert len(list((folder / "next/subjects").glob("*.png"))) == 10
    assert (folder / "next/subjects/manifest.csv").is_file()
    assert os.path.getsize(folder / "runs/hybrid/report/index.html") > 10_000
    assert "morphology" in (folder / "runs/hybrid/report/index.html").read_text(encoding="utf-8")


def test_other_words_would_be_noticed() -> None:
    assert re.search(pattern("400 samples (train 315, test 85) in stores/survey.zarr, 56.2 MiB"),
                     "90 samples (train 71, test 19) in stores/survey.zarr, 8.0 MiB, 1.0 s")  # fmt: skip
    assert not re.search(pattern("400 samples in 2 rows"), "400 samples in two rows")
