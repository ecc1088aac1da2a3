"""`average`: the mean to the last bit of float64, a card that has seen what all saw, and means that make no sense."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, DataError, RunError
from sciencessl.evaluate.average import STATISTICS, STRANGERS, average, average_text
from sciencessl.evaluate.embed import embed
from sciencessl.evaluate.encoders import run_encoder
from sciencessl.evaluate.export import export
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.tasks import load_task
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.labels_only import LabelsOnly
from sciencessl.spec import InputStats
from sciencessl.store.reader import Store
from sciencessl.train.checkpoint import Saver
from sciencessl.train.folder import COST, WEIGHTS, StoreRecord, read_model, write_model
from sciencessl.train.state import gather_state

RunFactory = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path, survey: Store, make_run: RunFactory) -> list[Path]:
    """Three runs with weights of their own."""
    return [make_run(tmp_path / f"run{seed}", survey, seed=seed) for seed in range(3)]


def change(run: Path, **changes: Any) -> Path:
    """The run with another card."""
    write_model(run, replace(read_model(run), **changes), run_encoder(run).module)
    return run


def break_weight(run: Path, name: str, value: float) -> Path:
    state = load_file(run / WEIGHTS)
    state[name].view(-1)[0] = value
    save_file(state, run / WEIGHTS)
    return run


def test_each_weight_is_the_mean_in_float64(runs: list[Path], tmp_path: Path) -> None:
    for k, run in enumerate(runs):
        break_weight(run, "bn1.num_batches_tracked", 10 + k)
    result = average(runs, tmp_path / "mean")
    states = [load_file(run / WEIGHTS) for run in runs]
    found = load_file(tmp_path / "mean" / WEIGHTS)
    assert found.keys() == states[0].keys()
    for name, tensor in found.items():
        wanted = np.mean([state[name].numpy().astype(np.float64) for state in states], axis=0)
        if name == "bn1.num_batches_tracked":
            assert int(tensor) == 12  # of the last: half a batch is none
        else:
            np.testing.assert_array_equal(tensor.numpy(), wanted.astype(tensor.numpy().dtype))
    assert result.averaged == tuple(str(run) for run in runs)
    assert result.notes == (STATISTICS, STRANGERS)
    assert average_text(result).startswith(f"mean of 3 encoders: {runs[0]}; ")


def test_the_order_of_two_inputs_changes_no_weight(runs: list[Path], tmp_path: Path) -> None:
    one, other = (average(pair, tmp_path / str(k)).out for k, pair in enumerate((runs[:2], runs[1::-1])))
    states = [load_file(folder / WEIGHTS) for folder in (one, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_mean_serves_as_a_run(runs: list[Path], survey: Store, tmp_path: Path) -> None:
    mean = average(runs, tmp_path / "mean").out
    assert embed(mean, survey.path, tmp_path / "emb", split="test", workers=0).features == 96
    assert export(mean, tmp_path / "shared").format == "timm"
    told = (tmp_path / "shared" / "README.md").read_text()
    assert "The weights are the mean of 3 encoder(s): run0; run1; run2." in told
    again = average([mean, runs[0]], tmp_path / "again")
    assert read_model(again.out).averaged == (str(mean), str(runs[0]))


def test_runs_of_one_start_are_no_strangers(runs: list[Path], tmp_path: Path) -> None:
    common = [change(run, init_from=str(runs[2])) for run in runs[:2]]
    assert average(common, tmp_path / "mean").notes == (STATISTICS,)


def test_the_card_has_seen_what_all_saw(runs: list[Path], survey: Store, tmp_path: Path) -> None:
    other = StoreRecord("other.zarr", "digest", {"labels": "abc"})
    change(runs[0], label_columns=("class",), label_rows={"class": 12}, label_note="by hand", leak="2 ids", steps=5)
    change(runs[1], label_columns=("class", "bar_yes"), label_rows={"class": 30, "bar": 4}, license="seer-license",
           stores=(*read_model(runs[1]).stores, other))
    change(runs[2], init_from="hub:ada/galaxies", sampling="balanced by class",
           probe_columns=("odd",))
    card = read_model(average(runs, tmp_path / "mean").out)
    assert (card.label_columns, card.label_rows) == (("class", "bar_yes"), {"class": 30, "bar": 4})
    assert [store.path for store in card.stores] == [str(survey.path), "other.zarr"]
    assert (card.label_note, card.leak, card.license) == ("by hand", "2 ids", "seer-license")
    assert card.probe_columns == ("odd",)
    assert (card.init_from, card.sampling, card.method) == ("hub:ada/galaxies", "balanced by class", "byol")
    assert (card.steps, card.images) == (7, 24)
    task = load_task(survey, MORPHOLOGY)
    mark = mark_encoder(run_encoder(tmp_path / "mean"), survey, task)
    assert mark.level == "own"
    assert "class (30 labelled samples)" in mark.sentence
    assert "foreign weights that it started from" in mark.sentence
    assert "'seer-license'" in mark.sentence


def test_what_an_ancestor_saw_stays_seen_when_it_is_gone(runs: list[Path], survey: Store, tmp_path: Path) -> None:
    change(runs[2], label_columns=("class",), label_rows={"class": 12})
    change(runs[0], init_from=str(runs[2]))
    mean = average(runs[:2], tmp_path / "mean").out
    assert read_model(mean).init_from == ""
    shutil.rmtree(runs[2])
    assert mark_encoder(run_encoder(mean), survey, load_task(survey, MORPHOLOGY)).level == "own"
    late = average(runs[:2], tmp_path / "late").out
    assert read_model(late).init_from == str(runs[2])
    assert mark_encoder(run_encoder(late), survey, load_task(survey, MORPHOLOGY)).level == "unknown"


def test_costs_add_up_or_are_unknown(runs: list[Path], make_cost: Callable[..., Any], tmp_path: Path) -> None:
    for run, steps in zip(runs, (100, 300, 50), strict=True):
        cost = {**make_cost(steps), "peak_memory_bytes": steps}
        (run / COST).write_text(json.dumps(cost))
    found = json.loads((average(runs, tmp_path / "mean").out / COST).read_text())
    assert (found["steps"], found["images_seen"], found["device"]) == (450, 450 * 64, "cpu")
    assert found["peak_memory_bytes"] == 300
    (runs[1] / COST).unlink()
    assert not (average(runs, tmp_path / "unknown").out / COST).exists()


def other_backbone(run: Path) -> None:
    write_model(run, replace(read_model(run), backbone="test_vit"), build_backbone("test_vit", 3, 0))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (other_backbone, "backbone is 'test_resnet' in .*run0 and 'test_vit' in .*run1.*one architecture and one in"),
        (lambda run: change(run, norm="none"), "norm is 'batch' in .* and 'none' in"),
        (lambda run: change(run, channels=("g", "r", "i")), r"channels is \('r', 'g', 'b'\) in .* 'i'\) in"),
        (lambda run: change(run, stats=InputStats((0.0,) * 3, (1.0,) * 3, (1.0,) * 3)), "input statistics is "),
        (lambda run: change(run, views={**read_model(run).views, "size": 48}), "view setting size is 32 in .* and 48"),
    ],
)
def test_encoders_that_do_not_go_together(
    break_it: Callable[[Path], Any], message: str, runs: list[Path], tmp_path: Path
) -> None:
    break_it(runs[1])
    with pytest.raises(ConfigError, match=message):
        average(runs, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_training_views_may_differ(runs: list[Path], tmp_path: Path) -> None:
    views = {**read_model(runs[1]).views, "small_views": 4}
    assert average([runs[0], change(runs[1], views=views)], tmp_path / "mean").features == 96


def test_broken_weights_are_named(runs: list[Path], tmp_path: Path) -> None:
    break_weight(runs[1], "bn1.weight", float("nan"))
    with pytest.raises(RunError, match=r"run1: weight bn1\.weight is not finite; leave it out"):
        average(runs, tmp_path / "mean")
    state = load_file(runs[1] / WEIGHTS)
    del state["bn1.weight"]
    save_file(state, runs[1] / WEIGHTS)
    with pytest.raises(DataError, match=r"run1 has other tensors than .*run0"):
        average(runs, tmp_path / "mean")
    (runs[1] / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(DataError, match=r"encoder\.safetensors cannot be read .*missing or damaged"):
        average(runs, tmp_path / "mean")
    for run in runs:
        save_file({"weight": torch.zeros(2)}, run / WEIGHTS)
    with pytest.raises(DataError, match="weights do not fit a test_resnet: "):
        average(runs, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.fixture
def checkpointed(tmp_path: Path, survey: Store, make_run: RunFactory) -> tuple[Path, list[Byol]]:
    """A run of BYOL with checkpoints after 10, 20 and 30 steps, and its method at each."""
    run = make_run(tmp_path / "long", survey, steps=30, images=240)
    methods = []
    for step in (10, 20, 30):
        generator = torch.Generator().manual_seed(step)
        method = Byol(build_backbone("test_resnet", 3, step), ByolOptions(8, 4), generator)
        method.target_encoder.load_state_dict(build_backbone("test_resnet", 3, step + 1).state_dict())
        state = gather_state({"method": method}, torch.optim.SGD(method.parameters(), 0.1, momentum=0.9))
        Saver(run, keep=3).save(state, {"taken": step, "loader": [{"samples": 7 * step}, {"samples": step}]})
        methods.append(method)
    return run, methods


def test_the_last_checkpoints_of_a_run(checkpointed: tuple[Path, list[Byol]], tmp_path: Path) -> None:
    run, methods = checkpointed
    result = average([run], tmp_path / "mean", last=2)
    assert (result.averaged, result.notes) == ((f"{run} at step 20", f"{run} at step 30"), (STATISTICS,))
    found, states = load_file(tmp_path / "mean" / WEIGHTS), [method.encoder.state_dict() for method in methods[1:]]
    name = "layer1.0.conv1.weight"
    wanted = (states[0][name].double() + states[1][name].double()) / 2
    assert torch.equal(found[name], wanted.float())
    card = read_model(tmp_path / "mean")
    assert (card.steps, card.images) == (30, 240)  # of one run: its later checkpoint has seen what the earlier one did
    pair = [run / "checkpoints" / f"step-{step:08d}" for step in (10, 20)]
    card = read_model(average(pair, tmp_path / "early").out)
    assert (card.steps, card.images) == (20, 160)
    mixed = average([run, pair[0]], tmp_path / "mixed")
    assert mixed.averaged == (str(run), f"{run} at step 10")


def test_a_target_may_stand_alone(checkpointed: tuple[Path, list[Byol]], tmp_path: Path) -> None:
    run, methods = checkpointed
    result = average([run], tmp_path / "target", network="target")
    assert average_text(result).splitlines()[0] == f"one encoder: {run} at step 30, target network"
    assert result.notes == ()
    found = load_file(tmp_path / "target" / WEIGHTS)
    assert all(torch.equal(found[name], value) for name, value in methods[-1].target_encoder.state_dict().items())
    two = average([run], tmp_path / "two", last=2, network="target")
    assert two.averaged[0] == f"{run} at step 20, target network"


def test_what_a_run_exports_is_averaged_from_its_checkpoints_too(
    checkpointed: tuple[Path, list[Byol]], tmp_path: Path
) -> None:
    run, methods = checkpointed
    change(run, module="target_encoder")  # as of DINO
    result = average([run], tmp_path / "mean", last=2)
    assert result.averaged[0] == f"{run} at step 20, target network"
    found, name = load_file(tmp_path / "mean" / WEIGHTS), "layer1.0.conv1.weight"
    wanted = sum(method.target_encoder.state_dict()[name].double() for method in methods[1:]) / 2
    assert torch.equal(found[name], wanted.float())
    assert average([run], tmp_path / "target", network="target").averaged == (str(run),)
    online = average([run], tmp_path / "online", last=2, network="online")
    assert online.averaged[0] == f"{run} at step 20"
    assert read_model(online.out).module == "encoder"


def test_checkpoints_that_cannot_be_averaged(checkpointed: tuple[Path, list[Byol]], tmp_path: Path) -> None:
    run, methods = checkpointed
    with pytest.raises(RunError, match=r"has 3 checkpoints, and 4 are to be read\. .*--log\.keep_checkpoints"):
        average([run], tmp_path / "mean", last=4)
    with pytest.raises(ConfigError, match="one encoder is its own mean"):
        average([run], tmp_path / "mean", last=1)
    plain = LabelsOnly(methods[0].encoder, LabelsOnly.Options(), torch.Generator())
    Saver(run, keep=3).save(gather_state({"method": plain}), {"taken": 40, "loader": []})
    with pytest.raises(RunError, match="the method of this run has no target encoder; leave --network out"):
        average([run], tmp_path / "mean", network="target")
    latest = run / "checkpoints" / "step-00000040"
    next(latest.glob("*.safetensors")).write_bytes(b"torn")
    with pytest.raises(RunError, match="step-00000040 is torn"):
        average([run], tmp_path / "mean", last=2)
    assert not (tmp_path / "mean").exists()


def test_requests_that_mean_nothing(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one encoder is its own mean\. Give several .*--last K"):
        average(runs[:1], tmp_path / "mean")
    with pytest.raises(ConfigError, match="run0 is given twice"):
        average([runs[0], runs[1], runs[0]], tmp_path / "mean")
    with pytest.raises(RunError, match=r"has no exported model .*It is no run"):
        average([runs[0], tmp_path], tmp_path / "mean")
    with pytest.raises(ConfigError, match=r"no network named 'onlin'.*Did you mean 'online'"):
        average(runs, tmp_path / "mean", network="onlin")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--last -1: give the number of checkpoints"):
        average(runs, tmp_path / "mean", last=-1)
    with pytest.raises(RunError, match="exists and is not empty"):
        average(runs[:2], runs[2])
