"""Bad input on the command line: what the user reads, the exit code, and never a traceback."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl import cli
from sciencessl.registry import load_domain
from sciencessl.spec import FieldSpec
from sciencessl.store.format import StoreHeader
from sciencessl.store.writer import create_store

SMALL = [
    "--steps", "1", "--batch", "4", "--views.size", "32", "--backbone", "test_resnet", "--compute.workers", "0",
    "--compute.threads", "1", "--compute.precision", "float32", "--compute.memory_format", "contiguous",
    "--options.hidden", "16", "--options.out", "8",
]  # fmt: skip

Catalogue = Callable[..., Path]


def call(*arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def refused(code: int, parts: Sequence[object], *arguments: object) -> str:
    """Assert that a command fails with this exit code and one message that holds all parts; returns the message."""
    got, out, err = call(*arguments)
    message = err[err.index("sciencessl: error: ") :]
    assert got == code, message
    assert "Traceback" not in out + err
    missing = [part for part in map(str, parts) if part not in message]
    assert not missing, f"{missing} not in: {message}"
    return message


def write_jpeg(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Changes to the rows of ten galaxies with votes -> a folder of stamps with a `catalogue.csv`."""

    def make(changes: dict[int, dict[str, Any]] | None = None, drop: Sequence[str] = (), rows: int = 10) -> Path:
        folder = tmp_path / "survey"
        table = []
        for i in range(rows):
            write_jpeg(folder / "stamps" / f"g{i}.jpg", i)
            row = {
                "id": f"g{i}", "file": f"stamps/g{i}.jpg", "class": ("spiral", "elliptical")[i % 2],
                "smooth-or-featured-dr5_smooth": i, "smooth-or-featured-dr5_featured-or-disk": 10 - i,
                "smooth-or-featured-dr5_artifact": 1,
            } | (changes or {}).get(i, {})
            table.append({name: value for name, value in row.items() if name not in drop})
        names = list(table[0]) if table else ["id", "file", "class"]
        folder.mkdir(exist_ok=True)
        with (folder / "catalogue.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(table)
        return folder

    return make


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic galaxies, prepared."""
    folder = tmp_path_factory.mktemp("galaxies")
    raw = load_domain("galaxy").synthetic(folder / "raw", np.random.default_rng(3), 24)
    assert call("prepare", "galaxy", raw, "--out", folder / "gz.zarr")[0] == 0
    return folder / "gz.zarr"


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    """A run on them."""
    out = store.with_name("run")
    assert call("pretrain", "--data", store, "--out", out, *SMALL)[0] == 0
    return out


def test_no_images_found(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no images here")
    folder = tmp_path / "notes"
    refused(1, [f"no images found in {folder}", ".jpg", "found 1 other file", "Check the path"], "prepare", "web",
            folder, "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    refused(1, ["stamsp' does not exist", "folder, a file, a glob"], "prepare", "web", tmp_path / "stamsp", "--out",
            tmp_path / "s")


def test_unknown_column(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = catalogue()
    where = f"--label clas: no such column in catalogue {folder / 'catalogue.csv'}"
    parts = [where, "Did you mean 'class'?", "Columns: id"]
    refused(2, parts, "prepare", "galaxy", folder, "--label", "clas", "--out", tmp_path / "s")
    refused(2, ["--keep redshift", "Columns: id"], "prepare", "galaxy", folder, "--out", tmp_path / "s", "--keep",
            "redshift")


def test_missing_columns(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = catalogue(drop=["id", "file"])
    refused(1, ["has no column of files or identifiers among: class", "Name one with --file or --id"], "prepare",
            "galaxy", folder, "--out", tmp_path / "s")


def test_empty_catalogue(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = catalogue(rows=0)
    write_jpeg(folder / "stamps" / "g0.jpg", 0)
    refused(1, [folder / "catalogue.csv", "no rows"], "prepare", "galaxy", folder, "--out", tmp_path / "s")


def test_duplicate_ids(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = catalogue({4: {"id": "g3"}})
    refused(1, ["'g3'", "more than once", folder / "catalogue.csv"], "prepare", "galaxy", folder, "--out",
            tmp_path / "s")


@pytest.mark.parametrize(("votes", "shown"), [(-2, "-2"), ("nan", "nan")])
def test_negative_or_nan_votes(catalogue: Catalogue, tmp_path: Path, votes: object, shown: str) -> None:
    folder = catalogue({6: {"smooth-or-featured-dr5_smooth": votes}})
    parts = ["'smooth-or-featured-dr5_smooth'", f"the first {shown} at id 'g6'", "negative or not finite", "Votes are"]
    refused(1, parts, "prepare", "galaxy", folder, "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_corrupt_jpeg_is_refused_and_the_rest_is_stored(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = catalogue()
    broken = folder / "stamps" / "g7.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    code, out, err = call("prepare", "galaxy", folder, "--out", tmp_path / "s")
    assert code == 3
    assert "9 samples (" in out
    assert "refused: 1 truncated" in out
    assert "  g7: truncated, " in out
    assert f"all are listed in {tmp_path / 's' / 'refused.csv'}" in out
    assert "Traceback" not in out + err
    with (tmp_path / "s" / "refused.csv").open(newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["g7"]


def test_an_existing_run_folder(store: Path, run: Path) -> None:
    before = sorted(entry.name for entry in run.iterdir())
    parts = [f"{run} exists and is not empty", "--resume continues", "--overwrite deletes", "another --out"]
    refused(1, parts, "pretrain", "--data", store, "--out", run, *SMALL)
    assert sorted(entry.name for entry in run.iterdir()) == before


@pytest.mark.parametrize(
    ("flag", "closest"),
    [("--views.siz", "'views.size'"), ("--optim.baselr", "'optim.base_lr'"), ("--view.size", "'views.size'"),
     ("--reusme", "'--resume'"), ("--minuts", "'--minutes'")],
)  # fmt: skip
def test_an_unknown_setting(store: Path, tmp_path: Path, flag: str, closest: str) -> None:
    refused(2, [flag.removeprefix("--"), f"Did you mean {closest}?"], "pretrain", "--data", store, "--out",
            tmp_path / "r", "--steps", 1, flag, 5)
    assert not (tmp_path / "r").exists()


def test_an_unknown_setting_of_prepare(tmp_path: Path) -> None:
    message = refused(2, ["there is no option --resizepx", "Did you mean '--resize-px'?", "prepare --help"], "prepare",
                      "web", "x", "--out", tmp_path / "s", "--resizepx", 3)
    assert "?." not in message


def test_a_setting_of_the_wrong_type(store: Path, tmp_path: Path) -> None:
    refused(2, ["steps (set by flags): expected int", "two"], "pretrain", "--data", store, "--out", tmp_path / "r",
            "--steps", "two")
    refused(2, ["resize_px (set by flags)", "abc"], "prepare", "web", "x", "--out", tmp_path / "s", "--resize-px",
            "abc")


def test_a_value_outside_its_range(store: Path, tmp_path: Path) -> None:
    refused(2, ["batch is 1; it must be 2 or more", "Fix: "], "pretrain", "--data", store, "--out", tmp_path / "r",
            "--steps", 1, "--batch", 1)
    refused(2, ["views.size is 4; it must be 8 pixels or more"], "pretrain", "--data", store, "--out", tmp_path / "r",
            "--steps", 1, "--views.size", 4)
    refused(2, ["test_fraction is 1.5", "below 1"], "prepare", "web", "x", "--out", tmp_path / "s", "--test-fraction",
            1.5)


def test_weights_of_another_backbone(store: Path, run: Path, tmp_path: Path) -> None:
    other = [word if word != "test_resnet" else "test_convnext" for word in SMALL]
    parts = [run, "trained backbone 'test_resnet'", "would train 'test_convnext'", "Pass --backbone test_resnet"]
    refused(2, parts, "pretrain", "--data", store, "--out", tmp_path / "r", *other, "--init-from", run)
    assert not (tmp_path / "r").exists()


def test_resume_with_another_backbone(run: Path) -> None:
    refused(2, [f"--resume continues {run} with its own settings; got backbone", "--init-from"], "pretrain", "--out",
            run, "--resume", "--backbone", "resnet18")


def test_a_store_never_sealed(tmp_path: Path) -> None:
    path = tmp_path / "half.zarr"
    fields = {"image": FieldSpec("bytes", ("r", "g", "b"))}
    create_store(path, StoreHeader("galaxy", "images", fields, 2, 4, {}, "plan", "config"), 1000)
    for command in (
        ["store", "info", path], ["store", "verify", path], ["store", "show", path],
        ["pretrain", "--data", path, "--out", tmp_path / "r", "--steps", 1],
    ):  # fmt: skip
        refused(1, [path, "never sealed", "prepare"], *command)
    assert not (tmp_path / "r").exists()


def test_a_run_folder_that_is_a_file(store: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "run"):
        refused(1, [f"{tmp_path / 'notes.txt'} is a file", "--out names a folder"], "pretrain", "--data", store,
                "--out", out, "--steps", 1, *SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    refused(1, [f"{tmp_path} is no store", "sciencessl prepare"], "store", "info", tmp_path)
    refused(1, ["nowhere is no store", "sciencessl prepare"], "pretrain", "--data", tmp_path / "nowhere", "--out",
            tmp_path / "r", "--steps", 1)


def test_a_task_whose_column_is_absent(tmp_path: Path, run: Path) -> None:
    for i in range(6):
        write_jpeg(tmp_path / "flat" / f"{i}.jpg", i)
    assert call("prepare", "galaxy", tmp_path / "flat", "--out", tmp_path / "s")[0] == 0
    parts = [tmp_path / "s", "task 'morphology' reads column 'class'", "Columns: ", "--label"]
    refused(1, parts, "transfer", run, "--data", tmp_path / "s", "--task", "morphology", "--out", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_an_unknown_task_and_none(store: Path, run: Path, tmp_path: Path) -> None:
    refused(2, ["no task named 'morpholgy'", "Did you mean 'morphology'?"], "transfer", run, "--data", store, "--task",
            "morpholgy", "--out", tmp_path / "t")
    refused(2, ["choose a --task: morphology, spiral-edge-on"], "transfer", run, "--data", store, "--out",
            tmp_path / "t")


def test_unknown_labels_and_budgets(store: Path, run: Path, tmp_path: Path) -> None:
    refused(2, ["--labels smoth-or-featured", "Questions: smooth-or-featured-dr5"], "pretrain", "--data", store,
            "--out", tmp_path / "r", "--steps", 1, "--labels", "smoth-or-featured")
    refused(2, ["'five'", "20/class"], "transfer", run, "--data", store, "--task", "morphology", "--labels", "five",
            "--out", tmp_path / "t")


def test_unknown_verb_domain_method_backbone(store: Path, tmp_path: Path) -> None:
    refused(2, ["invalid choice: 'prepar'", "Did you mean 'prepare'?", "sciencessl --help"], "prepar")
    refused(2, ["invalid choice: 'inf'", "Did you mean 'info'?"], "store", "inf", store)
    refused(2, ["no domain named 'galxy'", "Did you mean 'galaxy'?", "Known: galaxy, pathology, web"], "prepare",
            "galxy", tmp_path, "--out", tmp_path / "s")
    refused(2, ["no method named 'byoll'", "Did you mean 'byol'?", "FILE.py:NAME"], "pretrain", "--data", store,
            "--out", tmp_path / "r", "--steps", 1, "--method", "byoll")
    refused(2, ["no backbone named 'resnet1'", "Did you mean 'resnet"], "pretrain", "--data", store, "--out",
            tmp_path / "r", "--steps", 1, "--backbone", "resnet1")
    refused(2, ["no backbone matches 'resent*'", "Did you mean 'resnet"], "backbones", "resent*")


def test_missing_arguments(store: Path, tmp_path: Path) -> None:
    refused(2, ["--out", "prepare --help"], "prepare", "web", tmp_path)
    refused(2, ["--out is missing: name the run folder"], "pretrain", "--data", store, "--steps", 1)
    refused(2, ["--data is missing: name the store"], "pretrain", "--out", tmp_path / "r", "--steps", 1)
    refused(2, ["the run has no length", "--minutes 10"], "pretrain", "--data", store, "--out", tmp_path / "r")
    refused(2, ["--data, --out", "embed --help"], "embed", "run")


def test_words_in_the_wrong_place(tmp_path: Path) -> None:
    refused(2, ["unexpected 'b'", "together, before the options"], "prepare", "web", "a", "--out", tmp_path / "s", "b")
    refused(2, ["required: SOURCE", "Give it first"], "prepare", "web", "--keep", "mag", "a", "--out", tmp_path / "s")
    refused(2, ["unexpected 'twice'", "--name value"], "pretrain", "--out", tmp_path / "r", "twice")


def test_what_cannot_be_explained(store: Path, run: Path, tmp_path: Path) -> None:
    refused(2, ["invalid choice: 'explan'", "Did you mean 'explain'?"], "config", "explan", "--data", store)
    refused(2, ["one of --data STORE, --domain NAME"], "config", "explain")
    refused(2, ["views.siz", "Did you mean 'views.size'?"], "config", "explain", "--domain", "web", "--views.siz", 9)
    refused(2, ["there is no option --chagned", "Did you mean '--changed'?"], "config", "explain", run, "--chagned")
    refused(2, [f"{run} has its settings already", "--views.size"], "config", "explain", run, "--views.size", 9)
    refused(2, ["no run", "config.yaml"], "config", "explain", tmp_path)


def test_an_export_onto_something_else(run: Path, store: Path, tmp_path: Path) -> None:
    refused(1, [store, "no earlier export", "another --out"], "export", run, "--out", store, "--overwrite")
    refused(1, [run, "no earlier export"], "export", run, "--out", run)
    assert call("export", run, "--out", tmp_path / "e")[0] == 0
    refused(1, [tmp_path / "e", "--overwrite replaces it"], "export", run, "--out", tmp_path / "e")


def test_folders_that_are_no_run(store: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    refused(1, [none, "no run"], "embed", none, "--data", store, "--out", tmp_path / "e")
    refused(1, [none, "no run"], "transfer", none, "--data", store, "--task", "morphology", "--out", tmp_path / "t")
    refused(1, [none, "no run"], "report", none)
    refused(1, [none, "no run"], "export", none, "--out", tmp_path / "x")
    refused(1, [none, "holds no run"], "pretrain", "--out", none, "--resume")


def test_another_store_at_the_output(catalogue: Catalogue, store: Path) -> None:
    refused(1, [f"{store} was prepared from something else", "ids added", "--overwrite"], "prepare", "galaxy",
            catalogue(), "--out", store)


def test_simulated_votes_from_a_wrong_column_or_schema(catalogue: Catalogue, tmp_path: Path) -> None:
    folder, out = catalogue(), tmp_path / "s"
    refused(2, ["no label schema named 'gzd9'", "Did you mean 'gzd8'?"], "prepare", "galaxy", folder, "--out", out,
            "--simulate-votes-from", "class", "--simulate-schema", "gzd9")
    assert not out.exists()
    refused(2, ["--simulate-votes-from clas:", "Did you mean 'class'?", "store itself is complete"], "prepare",
            "galaxy", folder, "--out", out, "--simulate-votes-from", "clas")
    refused(1, ["--simulate-votes-from file", "no classes that votes can be drawn from", "elliptical"], "prepare",
            "galaxy", folder, "--out", out, "--simulate-votes-from", "file")
    code, shown, _ = call("prepare", "galaxy", folder, "--out", out, "--simulate-votes-from", "class")
    assert code == 0
    assert "nothing to do" in shown
