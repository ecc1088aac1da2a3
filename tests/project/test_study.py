"""The script behind the pages of docs/results: its commands are commands, and its page says what the tables say."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from sciencessl import cli
from sciencessl.config import RunConfig
from sciencessl.evaluate.results import Endpoint, Row, TransferResult
from sciencessl.explanation import explain
from sciencessl.flags import given

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STUDIES = sorted(RESULTS.glob("*.yaml"))


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", RESULTS / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_commands_of_a_study_are_understood(
    path: Path, study: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[argparse.Namespace] = []
    for name, verb in cli.VERBS.items():
        monkeypatch.setitem(cli.VERBS, name, verb._replace(run=lambda args: found.append(args) or 0))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    commands = list(study._commands(written, Path("DATA")))
    for _, words, _ in commands:
        if words[0].endswith(".py"):
            assert (RESULTS / words[0]).is_file()
        else:
            assert cli.run(words) == 0, capsys.readouterr().err
    verbs = [args.verb for args in found]
    stores, methods = written["stores"], written["methods"]
    pretrained = [args for args in found if args.verb == "pretrain"]
    after = [line.split()[0] for lines in written.get("after", {}).values() for line in lines]
    own = [verb for verb in verbs if verb not in after]
    assert own[: len(stores)] == ["prepare"] * len(stores)
    assert own[len(stores) :][: len(pretrained)] == ["pretrain"] * len(pretrained)
    assert verbs.count("transfer") == len(written["transfers"])
    for args in pretrained:
        settings = {name: value for name, value in given(args, RunConfig).items() if name not in ("data", "method")}
        assert explain(domain=written["domain"], method=args.method, config=args.config,
                       settings=settings | args.settings)
    first = next(iter(stores))
    names = {f"runs/{method}-{seed}": (method, options.get("store", first)) for method, options in methods.items()
             for seed in options.get("seeds", written["seeds"])}
    assert sorted(args.out for args in pretrained) == sorted(names)
    for args, options in zip([args for args in found if args.verb == "transfer"], written["transfers"].values(),
                             strict=True):
        expected = [run for run, (method, store) in names.items()
                    if (method in options["runs"] if "runs" in options else store == Path(args.data).stem)]
        assert args.runs == [*written.get("beside", []), *expected]


def test_what_is_done_is_not_done_again(tmp_path: Path, study: ModuleType, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "byol-1" / "exported").mkdir(parents=True)
    (tmp_path / "runs" / "byol-1" / "exported" / "model.json").touch()
    (tmp_path / "runs" / "byol-2").mkdir()
    (tmp_path / "runs" / "byol-2" / "cost.json").touch()  # there from the start of a run
    arguments = ["study", str(STUDIES[0]), "--data", "DATA", "--work", str(tmp_path), "--dry-run"]
    monkeypatch.setattr(sys, "argv", arguments)
    study.main()
    printed = capsys.readouterr().out
    assert "runs/byol-2 --seed 2" in printed
    assert "--out runs/byol-1 " not in printed


def test_options_of_the_script_are_no_options_of_commands(study: ModuleType) -> None:
    options = {"store": "other", "seeds": [1], "about": "Text.", "labels": [5, "all"], "accept-leak": []}
    assert study._words(options) == ["--labels", "5", "all", "--accept-leak"]


def test_runs_and_transfers_keep_to_their_store(study: ModuleType) -> None:
    written = {"domain": "web", "source": "set", "stores": {"own": {"group": "a"}, "leaky": {}}, "seeds": [1, 2],
               "pretrain": {"steps": 9}, "methods": {"byol": {}, "leaking": {"store": "leaky", "seeds": [3]}},
               "beside": ["baseline:colour-histogram"], "transfers": {"few": {}, "warning": {"store": "leaky"}}}
    said = {name: " ".join(words) for name, words, _ in study._commands(written, Path("DATA"))}
    assert list(said) == ["prepare", "prepare-leaky", "byol-1", "byol-2", "leaking-3", "few", "warning", "compare",
                          "report", "compare-leaky", "report-leaky"]
    assert said["leaking-3"] == "pretrain --data leaky.zarr --out runs/leaking-3 --seed 3 --steps 9"
    assert said["few"] == ("transfer baseline:colour-histogram runs/byol-1 runs/byol-2 --data own.zarr --out "
                           "transfers/few")
    assert said["warning"] == ("transfer baseline:colour-histogram runs/leaking-3 --data leaky.zarr --out "
                               "transfers/warning")
    assert said["compare-leaky"] == "compare transfers/warning --out compare-leaky"


def test_further_commands_follow_what_they_are_after_and_are_done_once(
    tmp_path: Path, study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"domain": "web", "source": "set", "stores": {"a": {}, "b": {}}, "seeds": [1], "pretrain": {},
               "methods": {"byol": {}, "other": {}}, "transfers": {"few": {"store": "b", "runs": ["other"]}},
               "after": {"b": ["skew.py a.zarr", "store remove a.zarr --reason 'made rare'"], "byol-1": ["embed x"]}}
    commands = {name: (words, finished) for name, words, finished in study._commands(written, Path("DATA"))}
    assert list(commands) == ["prepare", "prepare-b", "b-1", "b-2", "byol-1", "byol-1-1", "other-1", "few", "compare-b"]
    assert commands["b-2"] == (["store", "remove", "a.zarr", "--reason", "made rare"], "done/b-2")
    assert " ".join(commands["few"][0]) == "transfer runs/other-1 --data b.zarr --out transfers/few"
    called: list[list[str]] = []
    ended = argparse.Namespace(returncode=0)
    monkeypatch.setattr(study.subprocess, "run", lambda words, **_: called.append(words) or ended)
    study._run(tmp_path, "b-1", *commands["b-1"])
    study._run(tmp_path, "b-2", *commands["b-2"])
    assert called == [[sys.executable, str(RESULTS / "skew.py"), "a.zarr"],
                      [sys.executable, "-m", "sciencessl", *commands["b-2"][0]]]
    assert (tmp_path / "done" / "b-1").is_file()


def _row(encoder: str, arm: str, score: float, **changes: Any) -> Row:
    row = Row(encoder, arm, "100", 100, 3, 3, "balanced_accuracy", score, score - 0.02, score + 0.02, None, None, None,
              2.0, "none", seeds=3, each=(score, score, score))
    return replace(row, **changes)


@pytest.fixture
def result(tmp_path: Path) -> TransferResult:
    gap = {"difference": 0.06, "difference_low": 0.01, "difference_high": 0.11, "baseline": "random"}
    rows = (_row("byol", "frozen", 0.7, **gap), _row("hybrid", "finetune", 0.8), _row("scratch", "scratch", 0.6),
            _row("random", "random", 0.64))
    end = Endpoint("hybrid", "byol", False, 20, 500, 0.04, -0.01, 0.09, 0.1, 0.1, "frozen", "frozen", 3,
                   (0.05, 0.02, 0.05))
    marks = {"byol-1": "None.", "byol-2": "None."}
    return TransferResult(tmp_path, "shape", "object", ("a", "b"), 100, 50, 0.03, marks, rows, {}, {}, 1.0, 3, (end,))


def test_aims_are_judged_by_the_table(study: ModuleType, result: TransferResult) -> None:
    results = {"few": result}
    above = {"transfer": "few", "of": "byol", "at": 100, "least": 0.05}
    assert study._verdict(above, results) == "Met: +0.060 [+0.010, +0.110]."
    assert study._verdict({**above, "least": 0.07}, results) == "Not met: +0.060 [+0.010, +0.110]."
    best = study._verdict({"transfer": "few", "best_of": 100}, results)
    assert best == "Met: hybrid finetune 0.800 [0.780, 0.820], scratch 0.600 [0.580, 0.620]."
    over = study._verdict({"transfer": "few", "of": "hybrid", "over": "byol"}, results)
    kept = replace(result, rows=(_row("byol", "knn", 0.5), _row("blank", "knn", 0.3), _row("bare", "knn", 0.4)))
    apart = {"transfer": "few", "of": "byol", "above": ["blank", "bare"], "arm": "knn", "at": 100, "least": 0.09}
    assert study._verdict(apart, {"few": kept}) == (
        "Met: byol 0.500 [0.480, 0.520], bare 0.400 [0.380, 0.420], the stronger of 2: +0.100 (+0.100, +0.100, +0.100 "
        "by seed).")
    assert study._verdict({**apart, "least": 0.12}, {"few": kept}).startswith("Not met: byol")
    assert over == ("Met: +0.050, +0.020, +0.050 by pretraining seed, +0.040 [-0.010, +0.090] together, not resolved.")


def test_scores_of_many_encoders_are_drawn_in_place_of_curves(
    tmp_path: Path, study: ModuleType, result: TransferResult
) -> None:
    few = replace(result, rows=(*result.rows, replace(result.rows[0], budget="50")))
    rows = [_row(f"method-{i}", arm, 0.5 + i / 100) for i in range(10) for arm in ("knn", "frozen")]
    many = replace(few, rows=tuple(replace(row, budget=budget) for budget in ("50", "100")
                                   for row in (*rows, _row("random", "random", 0.5))))
    (tmp_path / "transfers" / "few").mkdir(parents=True)
    (tmp_path / "transfers" / "few" / "curve.png").write_bytes(b"picture")
    args = argparse.Namespace(study=tmp_path / "own.yaml", work=tmp_path)
    for found, drawn in ((few, False), (many, True)):
        list(study._section("few", found, args, ""))
        assert (tmp_path / "own_few.png").read_bytes().startswith(b"\x89PNG") == drawn


def test_the_page_holds_table_and_endpoints(tmp_path: Path, study: ModuleType, result: TransferResult) -> None:
    two = replace(result, rows=(*result.rows, replace(result.rows[0], budget="50")))
    for name, found in (("few", two), ("one", result)):
        folder = tmp_path / "transfers" / name
        folder.mkdir(parents=True)
        (folder / "curve.png").write_bytes(b"picture")
        (folder / "transfer.json").write_text(json.dumps(found.to_json()), encoding="utf-8")
    run = tmp_path / "runs" / "byol-1"
    run.mkdir(parents=True)
    cost = {"steps": 9, "images_seen": 90, "wall_seconds": 60.0, "device_hours": 0.0167, "device": "cpu",
            "peak_memory_bytes": 2**30}  # fmt: skip
    (run / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
    (run / "metrics.jsonl").write_text('{"step": 2, "std": 0.1}\n{"step": 9, "std": 0.25}\n', encoding="utf-8")
    args = argparse.Namespace(study=tmp_path / "own.yaml", work=tmp_path)
    written = {"title": "Own", "about": "What it is.", "source": "set", "notes": "What else.",
               "measures": ["std", "target_cosine"],
               "transfers": {"few": {"about": "Mind this."}, "one": {}}}
    page = "\n".join(study._page(written, args, [("prepare", ["prepare", "web", "/elsewhere/set"], "")]))
    assert "## few: a, b\n\nMind this.\n\n100 labels to draw from" in page
    assert "| byol | frozen | 0.700 ± 0.020 |" in page
    assert "| | minus random | +0.060 [+0.010, +0.110] |" in page
    assert "further endpoint: hybrid frozen minus byol frozen" in page
    assert "- byol-1, byol-2: None." in page
    assert "sciencessl prepare web DATA/set" in page
    assert "| byol-1 | 9 | 90 | 1.0 | 0.017 | cpu | 1.00 GiB | 0.25 | |" in page
    assert "1 minutes of pretraining" in page
    assert (tmp_path / "own_few.png").read_bytes() == b"picture"
    assert not (tmp_path / "own_one.png").exists()  # one budget is no curve
    assert "own_one.png" not in page
