"""The tutorials are run: their Python and their commands, in order, on less data with fewer steps."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from PIL import Image

from sciencessl import cli
from sciencessl.domains.pathology.synthetic_slides import NAME_ON_LABEL
from sciencessl.domains.web.synthetic_hostile import GPS_EXIF

TINY = (
    "--backbone test_resnet --batch 16 --options.hidden 32 --options.out 16 --compute.workers 0 --compute.threads 1 "
    "--compute.precision float32 --compute.memory_format contiguous --views.size"
)
"""What pretraining is given besides: a tiny encoder, one thread."""


@dataclass(frozen=True)
class Tutorial:
    """A page and how it is run.

    Attributes:
        name: Of the page, without `.md`.
        smaller: What the page says -> what the test does instead, to be quick.
        added: Verb -> what the test adds.
        codes: How a command begins -> exit code, where it is not 0; of a dry run it is.
    """

    name: str
    smaller: Mapping[str, str]
    added: Mapping[str, str]
    codes: Mapping[str, int] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        return Path(__file__).parents[2] / f"docs/tutorials/{self.name}.md"


GALAXY = Tutorial(
    "galaxy_survey",
    {"default_rng(0), 400": "default_rng(0), 90", "--steps 30": "--steps 2", "--subsets 3": "--subsets 2",
     "--n 20": "--n 10"},
    {"pretrain": f"{TINY} 32", "select": "--png-px 64"},
)
SLIDES = Tutorial(
    "pathology_slides",
    {"default_rng(0), 16": "default_rng(0), 8, side_um=320", "--steps 30": "--steps 2"},
    {"pretrain": f"{TINY} 32", "prepare": "--workers 0"}, {"prepare": 3},
)

CRAWL = Tutorial(
    "web_crawl",
    {"rng, 160)": "rng, 40)", "rng, 300, ": "rng, 40, per_shard=50, ", "--steps 30": "--steps 2",
     "--random-encoders 2": "--random-encoders 1"},
    {"pretrain": f"{TINY} 32", "prepare": "--workers 0"}, {"prepare": 3, "transfer runs/curated --data": 4},
)


class Block(NamedTuple):
    """A code block: language, empty for commands of ours, and what is in it."""

    language: str
    text: str


def blocks(tutorial: Tutorial) -> list[Block]:
    """All code blocks of the page in order, made smaller."""
    text = tutorial.page.read_text(encoding="utf-8")
    for page, smaller in tutorial.smaller.items():
        assert page in text, page
        text = text.replace(page, smaller)
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]


def pattern(line: str) -> str:
    """A line of output whose numbers may differ, and whose columns may be as wide as they like."""
    words = (re.sub(r"\d[\d.,]*", r"[\\d.,]+", re.escape(word).replace(r"\.", ".")) for word in line.split())
    return r"\s+".join(words)


Shown = tuple[Path, list[tuple[str, str]]]
"""The folder where all was run, and (expected line, what the block before it said)."""


def shown(tutorial: Tutorial, folder: Path) -> Shown:
    """Run a page in a folder."""
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        expected = run(tutorial)
    assert Path.cwd() == before
    return folder, expected


@pytest.fixture(scope="module")
def galaxy(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return shown(GALAXY, tmp_path_factory.mktemp("tutorial"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    pytest.importorskip("openslide")
    pytest.importorskip("tifffile")
    return shown(SLIDES, tmp_path_factory.mktemp("slides-tutorial"))


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return shown(CRAWL, tmp_path_factory.mktemp("crawl-tutorial"))


def run(tutorial: Tutorial) -> list[tuple[str, str]]:
    """Run a page's blocks in the current folder."""
    expected, said = [], ""
    for language, text in blocks(tutorial):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, str(tutorial.page), "exec"), {})
            said = out.getvalue()
        elif language == "text":
            expected += [(line, said) for line in text.splitlines()]
        elif not language:
            said = "".join(command(line, tutorial) for line in text.splitlines())
    return expected


def command(line: str, tutorial: Tutorial) -> str:
    """Run one command line; returns what it printed."""
    words = shlex.split(line)
    assert words[0] == "sciencessl"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([*words[1:], *shlex.split(tutorial.added.get(words[1], ""))])
    codes = [code for start, code in tutorial.codes.items() if line.startswith(f"sciencessl {start}")]
    expected = codes[0] if codes and "--dry-run" not in words else 0
    assert code == expected, f"{line}\n{out.getvalue()}{err.getvalue()}"
    return out.getvalue() + err.getvalue()


@pytest.mark.parametrize("page", ["galaxy", "slides", "crawl"])
def test_commands_say_what_the_page_says(page: str, request: pytest.FixtureRequest) -> None:
    _, expected = request.getfixturevalue(page)
    assert len(expected) > 12
    for line, said in expected:
        assert re.search(pattern(line), said), f"{line!r} is not in what was said:\n{said}"


def test_slides_leave_what_the_page_says(slides: Shown) -> None:
    folder, _ = slides
    beside = folder / "stores/tiles.slides"
    assert (beside / "report.html").stat().st_size > 10_000
    with Image.open(beside / "thumbnails/S000.png") as thumbnail:
        assert thumbnail.width > thumbnail.height > 300
    assert len(list((beside / "masks").glob("S*.geojson"))) == 8
    assert min(Image.open(folder / "sheet.png").size) > 100
    embedded = pq.read_table(folder / "embedded/part-00000.parquet")
    assert embedded.num_rows > 100
    assert {row["slide"] for row in csv.DictReader((beside / "slides.csv").open()) if row["state"] != "ready"} == {
        "glass", "empty", "truncated"}
    # What identifies a patient stands in the synthetic files, and nowhere else.
    assert NAME_ON_LABEL.encode() in (folder / "slides/S000.svs").read_bytes()
    others = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "slides"]
    assert not [path for path in others if NAME_ON_LABEL.encode() in path.read_bytes()]


def test_a_crawl_becomes_what_its_truth_says(crawl: Shown) -> None:
    folder, expected = crawl
    (said,) = {said for line, said in expected if line.startswith("as expected")}
    right, images = re.findall(r"\d+", said)
    assert int(right) == int(images) > 80
    (said,) = {said for line, said in expected if line.endswith("0 twice")}
    different, kept, twice = (int(number) for number in re.findall(r"\d+", said))
    assert different == kept > 50
    assert twice == 0
    # Who took a photo and where stands in a file of the crawl, and nowhere else.
    secret = GPS_EXIF["Image Make"].encode()
    holding = {path.relative_to(folder).parts[0] for path in folder.rglob("*")
               if path.is_file() and secret in path.read_bytes()}
    assert holding == {"crawl"}


def test_the_photos_that_leak_are_found(crawl: Shown) -> None:
    folder, _ = crawl
    with (folder / "crawl/truth.csv").open(newline="") as file:
        leaked = {row["duplicate_of"] for row in csv.DictReader(file) if row["kind"] == "leaked"}
    assert len(leaked) == 2
    found = (folder / "runs/leaking/leak/remove.txt").read_text().split()
    assert {f"{Path(name).name}.jpg" for name in found} == leaked


def test_files_are_where_the_page_says(galaxy: Shown) -> None:
    folder, _ = galaxy
    posteriors = pq.read_table(folder / "posteriors/part-00000.parquet")
    assert posteriors.num_rows == 90
    assert min(Image.open(folder / "sheet.png").size) > 100
    assert len(list((folder / "next/subjects").glob("*.png"))) == 10
    assert (folder / "next/subjects/manifest.csv").is_file()
    assert os.path.getsize(folder / "runs/hybrid/report/index.html") > 10_000
    assert "mag_r</th>" in (folder / "runs/hybrid/report/index.html").read_text(encoding="utf-8")


def test_other_words_would_be_noticed() -> None:
    assert re.search(pattern("400 samples (train 315, test 85) in stores/survey.zarr, 56.2 MiB"),
                     "90 samples (train 71, test 19) in stores/survey.zarr, 8.0 MiB, 1.0 s")  # fmt: skip
    assert not re.search(pattern("400 samples in 2 rows"), "400 samples in two rows")
