"""The report: one page that holds all it shows, says what is missing, and escapes what users call things."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import yaml

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import RunError
from sciencessl.evaluate.report import report
from sciencessl.evaluate.results import RESULT, Row, TransferResult
from sciencessl.spec import FieldSpec, InputStats
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample, Refusal, create_store, write_row
from sciencessl.train.folder import ModelCard, StoreRecord, write_model

VOID = {"meta", "img", "br", "hr", "link", "input"}
SECTIONS = ("few-labels", "views", "learning", "collapse", "map", "neighbours", "cost", "data", "settings",
            "environment")
HOSTILE = "<b>bold</b> & \"quoted\" "
RUN = "run <i>one"


def make_store(path: Path) -> Path:
    """Forty 24-pixel images of two classes, every id hostile, eight of them test samples, one refusal."""
    rng = np.random.default_rng(0)
    header = StoreHeader("galaxy", "images", {"image": FieldSpec("bytes", ("r", "g", "b"))}, 1, 40, {}, "p", "c")
    create_store(path, header, 100_000)
    samples, ids, classes = [], [], []
    for number in range(40):
        image = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        image[:, 10:14] += np.uint8(150 * (number % 2))
        ids.append(f"{HOSTILE}{number}")
        classes.append(("elliptical", "edge-on")[number % 2] if number % 7 else None)
        payload = {"image": cv2.imencode(".png", image)[1].tobytes()}
        samples.append(PreparedSample(ids[-1], "test" if number % 5 == 0 else "train", payload, {}))
    write_row(path, header, 0, samples, [Refusal("gone", "corrupt", "no end of image")], "inputs")
    seal(path, header)
    table = pa.table({"id": ids, "class": classes})
    write_table(path, "labels", table, derived_from={"class": ["votes"]}, note="by hand: {a long story}")
    return path


def metrics(**more: float) -> list[dict[str, Any]]:
    shared = {"loss": 2.0, "lr": 0.1, "images_per_s": 50.0, "data_wait": 0.1, "std": 0.5, "effective_rank": 9.0, **more}
    return [{"step": step, "images": 8 * step, **shared} for step in (1, 5, 10)]


def write_run(run: Path, store: Path, rows: list[dict[str, Any]], finished: bool = True, **config: Any) -> Path:
    """What a run of ten steps leaves behind, with a random encoder for a trained one."""
    run.mkdir(parents=True)
    settings = {"data": str(store), "method": "byol", "backbone": "regnety_002", "labels": [], "seed": 3, "batch": 8,
                "steps": 10, "optim": {"name": "adamw"}, "views": {"size": 16, "area": [0.3, 0.85]}, **config}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "overrides.txt").write_text("optim.name=adamw\n")
    (run / "environment.json").write_text(json.dumps({"python": "3.11", "devices": [], "libraries": {"torch": "9.9"}}))
    cost = {"operations_per_image": 1e9, "wall_seconds": 0.0, "tuning_trials": 0}
    if finished:
        cost |= {"images_seen": 80, "steps": 10, "device": "cpu", "wall_seconds": 150.0, "device_hours": 0.0417,
                 "estimated_operations": 8e10, "peak_memory_bytes": 3 * 2**30}
        stats = InputStats((0.2,) * 3, (0.2,) * 3, (255.0,) * 3)
        card = ModelCard("galaxy", settings["method"], "regnety_002", "image", ("r", "g", "b"), 368, stats,
                         settings["views"], 10, 80, 3, (StoreRecord(str(store), Store(store).digest),))
        write_model(run, card, build_backbone("regnety_002", 3, 0))
    (run / "cost.json").write_text(json.dumps(cost))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "train.log").write_text("2026-01-01 00:00:00,000 WARNING step 5: it <collapses>\n" if finished else "")
    return run


def row(arm: str, n_labels: int, difference: float | None, half: float = 0.05) -> Row:
    low, high = (None, None) if difference is None else (difference - half, difference + half)
    encoder = "random" if arm == "random" else RUN
    return Row(encoder, arm, str(n_labels), n_labels, 4, 1, "balanced_accuracy", 0.612, 0.562, 0.662, difference,
               low, high, 5.0, "none", metrics={"accuracy": 0.703, "nll": 0.811})


def write_transfer(folder: Path, name: str = RUN) -> Path:
    rows = (row("frozen", 20, 0.127), row("frozen", 50, 0.011), row("knn", 20, -0.222), row("random", 20, None))
    result = TransferResult(
        folder, "morphology", "object", ("edge-on", "elliptical"), 32, 8, 0.041, {name: "Neither was seen."},
        tuple(replace(r, encoder=name if r.arm != "random" else r.encoder) for r in rows), {}, {"merger": 3}, 1.0, 4,
    )
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps(result.to_json()))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("report") / "tiny.zarr")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A finished run with a transfer beside it, and its report; do not change it."""
    run = write_run(tmp_path_factory.mktemp("runs") / RUN, store, metrics(pair_loss=1.5))
    write_transfer(run / "transfer")
    assert report(run) == run / "report" / "index.html"
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


class Structure(HTMLParser):
    """Checks that tags are balanced; collects attributes, ids and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_page_asks_for_nothing(page: str) -> None:
    structure = Structure(page)
    tags = {tag for tag, _, _ in structure.attributes}
    assert not tags & {"script", "link", "iframe", "object"}
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert all(value.startswith("data:image/") for value in structure.values("src"))
    assert all(value.startswith("#") for value in structure.values("href"))
    assert not [name for _, name, _ in structure.attributes if name.startswith("on")]


def test_every_section_is_there_and_linked(page: str) -> None:
    structure = Structure(page)
    assert set(SECTIONS) <= set(structure.values("id"))
    assert {f"#{name}" for name in SECTIONS} == set(structure.values("href"))
    assert 'class="missing"' not in page


def test_every_image_says_what_it_shows(page: str) -> None:
    structure = Structure(page)
    images = sum(tag == "img" and name == "src" for tag, name, _ in structure.attributes)
    alts = [value for tag, name, value in structure.attributes if tag == "img" and name == "alt"]
    assert images == len(alts) > 12 + 8 * 8
    assert all(alts)


def test_figures_lie_beside_the_page_as_png(run: Path) -> None:
    names = {path.name for path in (run / "report").glob("*.png")}
    assert names == {f"{name}.png" for name in
                     ("few_labels", "differences", "views", "learning", "collapse", "map", "map_images", "neighbours")}
    for name in names:
        assert (run / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_what_users_call_things_is_escaped(page: str) -> None:
    assert "<b>bold</b>" not in page
    assert "<i>one" not in page
    assert "<collapses>" not in page
    words = Structure(page).words
    assert "<b>bold</b> & \"quoted\" " in words
    assert "run <i>one" in words
    assert "Warning in the log: step 5: it <collapses>" in words


def test_the_numbers_of_the_table_are_on_the_page(page: str) -> None:
    words = Structure(page).words
    for text in ("0.612 [0.562, 0.662]", "+0.127 [+0.077, +0.177]", "-0.222 [-0.272, -0.172]", "0.703", "0.811",
                 "0.041", "32 labels to draw from, 8 test samples", "3 merger", "Neither was seen."):
        assert text in words, text
    verdicts = re.findall(r'<td class="keep (?:good|bad|unresolved)">([^<]*)</td>', page)
    assert verdicts == ["above", "not resolved", "below", ""]


def test_the_summary_says_it_in_words(page: str) -> None:
    words = Structure(page).words
    for text in (
        "a regnety_002 encoder trained by byol", "10 steps of 8 images, 80 images seen, 2.5 passes over 32 training",
        "2.5 min on cpu (0.0417 device-hours, about 80 GFLOP, peak memory 3.0 GiB)", "not resolved at 50 (+0.011)",
        "Below the random encoders at 20 (-0.222) labels", "the spread is 0.50 (healthy: above 0.1)",
    ):
        assert text in words, text


def test_data_settings_and_environment_are_told(page: str) -> None:
    words = Structure(page).words
    for text in ("40: train 32, val 0, test 8", "1 corrupt", "derived from votes", "by hand", "optim.name = adamw",
                 "torch 9.9", "byol · domain galaxy"):
        assert text in words, text


def test_neighbours_are_training_samples_of_the_labelled_classes(page: str) -> None:
    table = page[page.index('<table class="near">') :]
    queries = re.findall(r'<td class="query">.*?title="([^"]*)"', table)
    assert len(queries) == len(set(queries)) > 1
    numbers = [int(name.split()[-1]) for name in queries]
    assert all(number % 5 == 0 for number in numbers)
    near = [int(name.split()[-1]) for name in re.findall(r'title="([^"]*)"', table)]
    assert all(number % 5 for number in near if number not in numbers)


@pytest.fixture
def write(store: Path, tmp_path: Path) -> Callable[..., tuple[Path, str]]:
    """Write a run and its report; returns the run and the words of the page."""

    def make(rows: list[dict[str, Any]], data: Path = store, **more: Any) -> tuple[Path, str]:
        run = write_run(tmp_path / "run", data, rows, **more)
        return run, Structure(report(run).read_text(encoding="utf-8")).words

    return make


def test_a_run_that_has_just_started_says_what_is_missing(write: Callable[..., tuple[Path, str]]) -> None:
    _, words = write([], finished=False)
    for text in ("not finished", "It has not logged a step yet", "Nothing has been logged", "The gauge was not read",
                 "The run has exported no encoder yet", "No few-label table yet", "The cost is not known yet",
                 "What the encoder is shown Training samples"):
        assert text in words, text


def test_a_run_that_was_stopped_names_its_last_step(write: Callable[..., tuple[Path, str]]) -> None:
    _, words = write(metrics(), finished=False)
    assert "Its last logged step is 10 of 10" in words


def test_labels_only_has_no_projections(write: Callable[..., tuple[Path, str]]) -> None:
    _, words = write(metrics(label_loss=1.0), method="labels_only", labels=["class"])
    assert "trained by labels_only from labels of class" in words
    assert "This method has no projections" in words


def test_a_store_out_of_reach_is_said_in_each_section(
    write: Callable[..., tuple[Path, str]], store: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(store, tmp_path / "moved.zarr")
    run, _ = write(metrics(), data=moved)
    shutil.rmtree(moved)
    gone = Structure(report(run).read_text(encoding="utf-8")).words
    assert gone.count("moved.zarr is no store") == 4
    found = Structure(report(run, data=store).read_text(encoding="utf-8")).words
    assert "is no store" not in found
    assert "Nearest neighbours Test samples" in found


def test_a_metric_that_no_panel_knows_and_a_dead_encoder_do_not_stop_the_page(
    write: Callable[..., tuple[Path, str]]
) -> None:
    _, words = write(metrics(queue_length=7.0, std=0.0, effective_rank=1.0))
    assert "the representation has collapsed" in words


def test_transfers_are_found_given_or_refused(run: Path, tmp_path: Path) -> None:
    other = write_transfer(tmp_path / "other", "somebody")
    page = report(run, transfers=[run / "transfer", other], out=tmp_path / "page", samples=20)
    assert page == tmp_path / "page" / "index.html"
    words = Structure(page.read_text(encoding="utf-8")).words
    assert words.count("32 labels to draw from") == 2
    assert "it is about other runs" in words
    assert (tmp_path / "page" / "few_labels_2.png").is_file()
    with pytest.raises(RunError, match=r"transfer\.json"):
        report(run, transfers=[tmp_path], out=tmp_path / "page")


def test_all_that_a_table_holds_is_on_the_page(run: Path, full_result: TransferResult, tmp_path: Path) -> None:
    cost = {**json.loads((run / "cost.json").read_text()), "images_seen": 123_456}
    methods = ("byol", "hybrid")
    costs = {f"{method}-{seed}": cost for seed in (1, 2, 3) for method in methods} | {"unfinished": {"steps": 3}}
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / RESULT).write_text(json.dumps(replace(full_result, cost=costs).to_json()))
    text = report(run, transfers=[folder], out=tmp_path / "page", samples=20).read_text(encoding="utf-8")
    structure = Structure(text)
    for name in ("few_labels", "differences", "reliability", "confusion"):
        assert (tmp_path / "page" / f"{name}.png").is_file()
    for told in (
        "Tested on telescope = B.", "byol (3 seeds)", "random (5 encoders)",
        "hybrid, finetune at 2,853 labels: 60 % from",
        "17.5 and above 372 360 0.580 [0.530, 0.630] worst", "missing 8 3 0.550 3 of 4 classes occur", "By mag",
        "95 % intervals over pretraining seeds",
    ):
        assert told in structure.words, told
    assert "One checkpoint each" not in structure.words
    assert "unfinished" not in structure.words
    table = structure.words[structure.words.index("device-hours device peak memory") :]
    places = [table.index(name) for name in ("byol byol-1 123,456", "byol-2", "byol-3", "hybrid hybrid-1", "hybrid-3")]
    assert places == sorted(places)


def test_what_a_table_lacks_is_left_out(page: str) -> None:
    words = Structure(page).words
    for heading in ("Where the variance", "Does the confidence", "What is taken for what", "By "):
        assert heading not in words, heading
    assert "One checkpoint each" in words


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        report(tmp_path)
