"""The command line as a user meets it: the whole path on synthetic data of each domain, exit codes, JSON, help."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sciencessl
from sciencessl import cli
from sciencessl.config import RunConfig
from sciencessl.diagnosis import Finding
from sciencessl.evaluate.posterior_columns import PosteriorSettings
from sciencessl.layers import leaf_names
from sciencessl.registry import load_domain, prepare_settings
from sciencessl.train.folder import WEIGHTS
from sciencessl.train.run import RunResult

SMALL = [
    "--steps", "4", "--batch", "16", "--views.size", "32", "--backbone", "test_resnet", "--compute.workers", "0",
    "--compute.threads", "1", "--compute.precision", "float32", "--compute.memory_format", "contiguous",
    "--log.every", "1",
]  # fmt: skip
HEADS = ["--options.hidden", "32", "--options.out", "16"]
SAMPLES = {"galaxy": 60, "pathology": 160, "web": 60}
FUNCTIONS = ("prepare", "pretrain", "embed", "transfer", "predict", "compare", "report", "average", "export",
             "doctor", "demo")
TASKS = {"galaxy": "morphology", "pathology": "tissue", "web": "classes"}


@dataclass(frozen=True)
class Shown:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: object) -> Shown:
    """Run one command in this process; `--help` and `--version` leave through SystemExit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Shown(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Walk:
    """One domain's way from files to a report: where things lie, and what each command showed."""

    domain: str
    folder: Path
    shown: dict[str, Shown]

    @property
    def store(self) -> Path:
        return self.folder / "store.zarr"

    @property
    def run(self) -> Path:
        return self.folder / "run"


def walk(domain: str, folder: Path) -> Walk:
    raw = load_domain(domain).synthetic(folder / "raw", np.random.default_rng(1), SAMPLES[domain])
    store, run, few = folder / "store.zarr", folder / "run", folder / "few"
    shown = {
        "prepare": call("prepare", domain, raw, "--out", store, "--test-fraction", 0.4, "--json"),
        "info": call("store", "info", store, "--json"),
        "show": call("store", "show", store, "--column", "class", "-n", 4, "--out", folder / "sheet.png", "--json"),
        "pretrain": call("pretrain", "--data", store, "--out", run, *SMALL, *HEADS, "--json"),
        "embed": call("embed", run, "--data", store, "--out", folder / "emb", "--dtype", "float16", "--json"),
        "transfer": call(
            "transfer", run, "--data", store, "--out", few, "--task", TASKS[domain], "--labels", "all", "--arms",
            "frozen", "random", "--subsets", 2, "--random-encoders", 1, "--json",
        ),
        "predict": call("predict", few / "models" / "frozen-run", "--data", store, "--out", folder / "predicted",
                        "--split", "test", "--keep", "class", "--json"),
        "report": call("report", run, "--transfer", few, "--json"),
    }  # fmt: skip
    return Walk(domain, folder, shown)


@pytest.fixture(scope="module", params=sorted(SAMPLES))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return walk(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class folder each of 8 red and 8 blue photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (folder / name).mkdir()
        for i in range(8):
            noise = np.random.default_rng(i).integers(0, 50, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise + np.array(colour, np.uint8)).save(folder / name / f"{name}{i}.png")
    return folder


@pytest.fixture(scope="module")
def store(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "photos.zarr"
    assert call("prepare", "web", photos, "--out", out).code == 0
    return out


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(store, tmp_path / "copy.zarr")


def test_every_step_ends_well_and_prints_one_json_object(path: Walk) -> None:
    codes = {verb: shown.code for verb, shown in path.shown.items()}
    # The synthetic crawl holds three files that are no images.
    assert codes.pop("prepare") == (3 if path.domain == "web" else 0)
    assert set(codes.values()) == {0}, {verb: path.shown[verb].err for verb, code in codes.items() if code}
    for shown in path.shown.values():
        assert isinstance(shown.json, dict)
        assert "Traceback" not in shown.err


def test_prepare_and_info_agree(path: Walk) -> None:
    prepared, found = path.shown["prepare"].json, path.shown["info"].json
    for key in ("n_samples", "refused", "manifest_digest"):
        assert prepared[key] == found[key]
    assert found["n_samples"] == SAMPLES[path.domain] == sum(found["splits"].values())
    assert found["domain"] == path.domain
    assert list(found["fields"]) == [load_domain(path.domain).primary]
    assert sum(found["columns"]["class"]["values"].values()) == found["n_samples"]
    assert "labels" in found["tables"] or "class" in found["columns"]
    assert sum(found["refused"].values()) == (3 if path.domain == "web" else 0)


def test_store_verify_and_show(path: Walk) -> None:
    sound = call("store", "verify", path.store)
    assert (sound.code, sound.out) == (0, f"{path.store}: every byte is as it was sealed\n")
    with Image.open(path.shown["show"].json["path"]) as sheet:
        assert min(sheet.size) > 32


def test_pretrain_wrote_a_run(path: Walk) -> None:
    result = path.shown["pretrain"].json
    assert (result["steps"], result["images"], result["finished"]) == (4, 64, True)
    names = {"config.yaml", "overrides.txt", "environment.json", "cost.json", "train.log", "metrics.jsonl"}
    assert names <= {entry.name for entry in path.run.iterdir()}
    assert "backbone=test_resnet" in (path.run / "overrides.txt").read_text().splitlines()


def test_embeddings_have_the_ids_of_the_store(path: Walk) -> None:
    result = path.shown["embed"].json
    tables = [pq.read_table(part) for part in sorted((path.folder / "emb").glob("*.parquet"))]
    ids = [name for table in tables for name in table["id"].to_pylist()]
    assert ids == sciencessl.Store(path.store).ids
    assert result["samples"] == len(ids) == result["computed"]
    again = call("embed", path.run, "--data", path.store, "--out", path.folder / "emb", "--dtype", "float16", "--json")
    assert (again.code, again.json["computed"]) == (0, 0)


def test_transfer_prints_the_whole_table(path: Walk) -> None:
    result = path.shown["transfer"].json
    assert result["task"] == TASKS[path.domain]
    assert [(row["encoder"], row["arm"], row["budget"]) for row in result["rows"]] == [
        ("run", "frozen", "all"), ("random", "random", "all"),
    ]  # fmt: skip
    for row in result["rows"]:
        assert 0 <= row["score"] <= 1
        assert {"low", "high", "trials", "saw", "resolved"} <= set(row)
    assert result["unit"] == ("group" if path.domain == "pathology" else "object")
    assert (path.folder / "few" / "table.csv").is_file()


def test_predictions_are_of_the_classes_of_the_transfer(path: Walk) -> None:
    result = path.shown["predict"].json
    assert [found["name"] for found in result["classes"]] == path.shown["transfer"].json["classes"]
    assert sum(found["samples"] for found in result["classes"]) == result["samples"] == result["computed"] > 0
    table = pq.read_table(path.folder / "predicted" / "part-00000.parquet")
    assert table.column_names == result["columns"]
    assert set(table["split"].to_pylist()) == {"test"}
    again = call("predict", path.folder / "few" / "models" / "frozen-run", "--data", path.store, "--out",
                 path.folder / "predicted", "--split", "test", "--keep", "class")  # fmt: skip
    assert again.code == 0, again.err
    assert "(0 computed now" in again.out


def test_report_is_one_page_that_asks_for_no_other(path: Walk) -> None:
    page = Path(path.shown["report"].json["report"]).read_text(encoding="utf-8")
    assert TASKS[path.domain] in page
    assert "<script src=" not in page
    assert 'src="http' not in page


def test_hybrid_learns_from_votes(tmp_path: Path) -> None:
    raw = load_domain("galaxy").synthetic(tmp_path / "raw", np.random.default_rng(2), 40)
    store, run = tmp_path / "gz.zarr", tmp_path / "hybrid"
    assert call("prepare", "galaxy", raw, "--out", store, "--keep", "mag_r").code == 0
    done = call("pretrain", "--data", store, "--out", run, *SMALL, *HEADS, "--labels", "smooth-or-featured", "bar")
    assert done.code == 0, done.err
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("label" in name for name in metrics[-1])
    assert all(np.isfinite(value) for name, value in metrics[-1].items() if "loss" in name)
    assert sciencessl.Store(store).columns()["mag_r"] == "rows"


def test_a_hybrid_of_simulated_votes_says_so_in_its_table(tmp_path: Path) -> None:
    for i in range(60):
        path = tmp_path / "raw" / ("elliptical", "spiral-clockwise", "edge-on")[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    store, run = tmp_path / "gz.zarr", tmp_path / "hybrid"
    assert call("prepare", "galaxy", tmp_path / "raw", "--out", store, "--simulate-votes-from", "class").code == 0
    shown = call("store", "info", store).out
    assert "derived from class [simulated votes on real images]" in shown
    assert call("pretrain", "--data", store, "--out", run, *SMALL, *HEADS, "--labels", "smooth-or-featured").code == 0
    table = call("transfer", run, "--data", store, "--out", tmp_path / "few", "--task", "morphology", "--labels", "all",
                 "--arms", "frozen", "--json")  # fmt: skip
    assert table.code == 0, table.err
    assert table.json["rows"][0]["saw"] != "none"
    assert "simulated votes on real images" in table.json["marks"]["hybrid"]


def test_resume_of_a_finished_run_does_nothing_and_keeps_its_settings(path: Walk) -> None:
    if path.domain != "web":
        pytest.skip("one domain is enough")
    again = call("pretrain", "--out", path.run, "--resume", "--json")
    assert (again.code, again.json["steps"], again.json["finished"]) == (0, 4, True)
    changed = call("pretrain", "--out", path.run, "--resume", "--backbone", "resnet18")
    assert changed.code == 2
    assert "got backbone as well" in changed.err


def test_a_second_prepare_has_nothing_to_do(photos: Path, store: Path) -> None:
    again = call("prepare", "web", photos, "--out", store)
    assert again.code == 0
    assert f"nothing to do: {store} holds all 16 rows" in again.out


def test_dry_runs_write_nothing(photos: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "none"
    estimate = call("prepare", "web", photos, "--out", out, "--dry-run")
    assert estimate.code == 0
    assert "would store 16 samples in 16 rows" in estimate.out
    measured = call("pretrain", "--data", store, "--out", out, "--dry-run", "--json", *SMALL, *HEADS)
    assert (measured.code, measured.json["steps"]) == (0, 4)
    assert measured.json["seconds"] > 0
    assert not out.exists()


def test_verify_fails_on_one_flipped_byte(copy: Path) -> None:
    shard = max((file for file in (copy / "fields").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 3] ^= 1
    shard.write_bytes(raw)
    damaged = call("store", "verify", copy, "--json")
    assert damaged.code == 1
    assert damaged.json
    assert {"where", "what"} <= set(damaged.json[0])


def test_a_run_that_was_stopped_asks_to_be_queued_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stopped = RunResult(tmp_path, 3, 48, 1.0, finished=False)
    monkeypatch.setattr("sciencessl.train.run.pretrain", lambda *args, **kwargs: stopped)
    shown = call("pretrain", "--data", "x.zarr", "--out", tmp_path)
    assert shown.code == 75
    assert "stopped with a checkpoint; continue with --resume: 3 steps, 48 images" in shown.out


def in_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("rank", "code"), [(0, 75), (1, 0)])
def test_the_first_process_says_what_became_of_all(
    rank: int, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A launcher ends the others at the first that exits with anything but 0: no other may do so before the first."""
    in_rank(rank, monkeypatch)
    stopped = RunResult(tmp_path, 3, 48, 1.0, finished=False)
    monkeypatch.setattr("sciencessl.train.run.pretrain", lambda *args, **kwargs: stopped)
    shown = call("pretrain", "--data", "x.zarr", "--out", tmp_path)
    assert (shown.code, bool(shown.out)) == (code, rank == 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_wrong_usage_is_said_by_the_first_process_and_other_errors_by_whom_they_meet(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_rank(rank, monkeypatch)
    usage, failure = call("pretrain", "--data"), call("pretrain", "--data", "nothing.zarr", "--out", "y")
    assert (usage.code, bool(usage.err)) == (2, rank == 0)
    assert failure.code == 1
    assert failure.err.startswith(f"sciencessl: {'process 1: ' if rank else ''}error: nothing.zarr is no store")


def test_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sciencessl.preparation.prepare", interrupted)
    shown = call("prepare", "web", "x", "--out", "y")
    assert shown.code == 130
    assert "the same command goes on" in shown.err


def test_listings(tmp_path: Path) -> None:
    names = [entry["name"] for entry in call("domains", "--json").json]
    assert names == ["galaxy", "pathology", "web"]
    assert "regnety_002" in call("backbones", "regnety*", "--json").json
    assert call().out.startswith("usage: sciencessl")
    assert {preset["use"] for preset in call("presets", "--json").json} >= {"--scale laptop", "--method byol"}
    assert "recipe small_stamps  (--config recipe/small_stamps)" in call("presets").out.splitlines()


def test_explain_shows_what_pretrain_would_do_with_the_same_words(store: Path) -> None:
    words = ["--data", store, "--views.size", "96", "--batch", "64", "--label_weight", "2", "--optim.warmup=0.5"]
    rows = {row["name"]: row for row in call("config", "explain", *words, "--json").json}
    given = {"views.size": 96, "batch": 64, "label_weight": 2.0, "optim.warmup": 0.5, "data": str(store)}
    assert {name: rows[name]["value"] for name in given} == given
    assert {name for name, row in rows.items() if row["origin"] == "flags"} == set(given)
    changed = call("config", "explain", *words, "--changed")
    assert changed.code == 0
    assert ["views.size", "96", "flags", "(default", "64)"] in [line.split() for line in changed.out.splitlines()]
    assert "views.area" not in changed.out
    assert "views.area" in call("config", "explain", *words).out


def test_explain_of_a_run(path: Walk) -> None:
    rows = {row["name"]: row for row in call("config", "explain", path.run, "--json").json}
    assert (rows["steps"]["value"], rows["steps"]["origin"]) == (4, "flags")
    assert rows["views.size"]["value"] == 32


def test_export_is_loaded_by_timm_with_the_features_of_embed(path: Walk) -> None:
    import timm

    shown = call("export", path.run, "--out", path.folder / "model", "--json")
    assert (shown.code, shown.json["format"]) == (0, "timm"), shown.err
    model = timm.create_model(f"local-dir:{path.folder / 'model'}", pretrained=True)
    assert model.num_features == shown.json["features"]
    again = call("export", path.run, "--out", path.folder / "model", "--overwrite")
    assert "timm.create_model(" in again.out


def test_an_average_of_the_run_and_its_last_checkpoint_serves_as_a_run(path: Walk) -> None:
    checkpoint = sorted((path.run / "checkpoints").iterdir())[-1]
    shown = call("average", path.run, checkpoint, "--out", path.folder / "mean", "--json")
    assert (shown.code, len(shown.json["averaged"])) == (0, 2), shown.err
    # The run exported what its last checkpoint holds, so their mean is that again.
    mean, run = (load_file(folder / WEIGHTS) for folder in (path.folder / "mean", path.run))
    assert all(torch.equal(value, run[name]) for name, value in mean.items())
    target = call("average", path.run, "--network", "target", "--out", path.folder / "target")
    assert "one encoder: " in target.out, target.err
    assert call("export", path.folder / "target", "--out", path.folder / "shared").code == 0


def test_doctor_fails_only_where_something_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [Finding("a", "1"), Finding("b", "2", "warning", "Look.")]
    monkeypatch.setattr("sciencessl.diagnosis.doctor", lambda folder: found)
    assert call("doctor").code == 0
    found.append(Finding("c", "3", "broken", "Mend."))
    shown = call("doctor", "--json")
    assert (shown.code, [row["state"] for row in shown.json]) == (1, ["ok", "warning", "broken"])


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    shown = call(verb, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"usage: sciencessl {verb}")
    assert f"sciencessl {verb}" in shown.out.partition("example:")[2]


def test_pretrain_help_shows_the_defaults_that_hold() -> None:
    words = " ".join(call("pretrain", "--help").out.split())
    assert "--batch BATCH Samples of one optimiser step. (default: 64, from scale laptop)" in words
    assert "(default: adamw, from scale laptop)" in words
    for name in ("--compute.precision", "--log.every", "--views.parity_safe"):
        assert name in words


def test_sources_may_stand_before_or_after_options(photos: Path, tmp_path: Path) -> None:
    one, two = photos / "red", photos / "blue"
    first = call("prepare", "web", one, two, "--test-fraction", "0.5", "--out", tmp_path / "a.zarr", "--json")
    second = call("prepare", "--test-fraction=0.5", "--out", tmp_path / "b.zarr", "--json", "web", one, two)
    assert first.code == second.code == 0, first.err + second.err
    assert first.json["manifest_digest"] == second.json["manifest_digest"]


def test_the_module_exits_with_the_code_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sciencessl", "prepar"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Did you mean 'prepare'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_verbs_are_functions_of_the_same_name(verb: str) -> None:
    assert getattr(sciencessl, verb).__name__ == verb
    assert verb in sciencessl.__all__


def test_public_names_survive_the_import_of_packages_beside_them() -> None:
    for name in sciencessl.__all__:
        assert callable(getattr(sciencessl, name))
        assert callable(getattr(sciencessl, name))  # again: the first access has imported submodules
    with pytest.raises(AttributeError, match="'pretrian'; it has"):
        _ = sciencessl.pretrian


def test_flags_and_arguments_of_the_functions_agree() -> None:
    """Names and defaults; settings of a run and of preparation travel in one argument."""
    renamed = {("report", "transfer"): "transfers", ("predict", "models"): "model"}
    gathered = {"prepare": prepare_settings(), "pretrain": RunConfig, "config": RunConfig, "predict": PosteriorSettings}
    options = {name for d in ("galaxy", "pathology", "web") for name in leaf_names(load_domain(d).prepare_options)}
    for verb, function in {**dict(zip(FUNCTIONS, FUNCTIONS, strict=True)), "config": "config_explain"}.items():
        parameters = inspect.signature(getattr(sciencessl, function)).parameters
        for action in cli._parsers([verb])[1][verb]._actions:
            name = renamed.get((verb, action.dest), action.dest)
            if name in ("help", "json", "action"):
                continue
            if name not in parameters:
                assert name in {*leaf_names(gathered[verb]), *options}, f"{verb} {action.option_strings}"
            elif action.option_strings and not action.required:
                default = parameters[name].default
                expected = list(default) if isinstance(default, tuple) else default
                assert str(action.default) == str(expected), f"{verb} {name}"


def test_methods_are_a_table_and_one_of_them_its_settings() -> None:
    listed = {entry["name"]: entry for entry in call("methods", "--json").json}
    assert listed.keys() >= {"byol", "labels_only"}
    assert (listed["byol"]["paper"], listed["byol"]["status"], listed["byol"]["cost"]) == (
        "arXiv 2006.07733", "verified", 1.0
    )
    assert (listed["byol"]["n_views"], listed["byol"]["multi_crop"]) == (2, True)
    lines = call("methods").out.splitlines()
    (row,) = (line for line in lines if line.startswith("byol "))
    assert row.split()[:4] == ["byol", "1.00", "2+", "verified"]
    assert max(map(len, lines)) <= 120
    assert "--options" not in "".join(lines)
    assert lines[-1].endswith("Settings of one: sciencessl methods NAME")
    assert "--options.tau_base" in call("methods", "byol").out
    (tau,) = (o for o in call("methods", "byol", "--json").json["options"] if o["name"] == "options.tau_base")
    assert (tau["default"], tau["about"]) == (0.996, "Target momentum at step 0, in [0, 1].")
    assert "It has no settings of its own." in call("methods", "labels_only").out
    refused = call("methods", "byo")
    assert refused.code != 0
    assert "Did you mean 'byol'?" in refused.err


def test_the_settings_of_a_method_are_those_that_a_run_of_it_gets() -> None:
    """The preset of a method wins over the defaults of its class, which are the paper's; both are told."""
    text = " ".join(call("methods", "byol").out.split())
    assert "(default: 1024, from method byol)" in text
    assert "Its preset sets options.hidden 1024, options.out 256, options.tau_base 0.97. The paper's 4096-wide" in text
    assert "views.plain True" in " ".join(call("methods", "mae").out.split())
    told = call("methods", "mae", "--json").json["preset"]
    explained = call("config", "explain", "--domain", "web", "--method", "mae", "--json").json
    assert {line["name"]: line["value"] for line in explained}.items() >= told.items()
