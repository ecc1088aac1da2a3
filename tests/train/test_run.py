"""`pretrain` from the outside: what it writes, and what a user is told when it cannot."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError, DataError, RegistryError, RunError, StoreError
from sciencessl.evaluate.encoders import run_encoder
from sciencessl.monitor.collapse import MEASURES
from sciencessl.setting_groups import Norm
from sciencessl.store.reader import Store
from sciencessl.train.checkpoint import checkpoints, read_checkpoint
from sciencessl.train.folder import WEIGHTS, read_metrics, read_model
from sciencessl.train.module import Pretraining
from sciencessl.train.run import RunEstimate, RunResult, pretrain
from tests.train.stored import stored

NO_HEADS = {"options__hidden": None, "options__out": None}


def test_a_run_folder_holds_what_the_design_names(finished: Path, tiny_store: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.yaml", "overrides.txt", "environment.json", "cost.json", "train.log", "metrics.jsonl",
                     "logs", "checkpoints", "exported"}
    assert "batch=8\n" in (finished / "overrides.txt").read_text()
    assert json.loads((finished / "environment.json").read_text())["libraries"]["torch"] == version("torch")
    assert "finished after step 9" in (finished / "train.log").read_text()
    assert [path.name for path in checkpoints(finished)] == ["step-00000006", "step-00000009"]
    cost = json.loads((finished / "cost.json").read_text())
    assert (cost["steps"], cost["images_seen"], cost["device"], cost["tuning_trials"]) == (9, 72, "cpu", 0)
    assert cost["estimated_operations"] == 72 * cost["operations_per_image"] > 0
    assert cost["peak_memory_bytes"] > 2**20
    assert cost["device_hours"] == pytest.approx(cost["wall_seconds"] / 3600, abs=1e-4)


def test_the_stored_settings_are_resolved(finished: Path, tiny_store: Path) -> None:
    values = yaml.safe_load((finished / "config.yaml").read_text())
    assert (values["steps"], values["epochs"], values["minutes"]) == (9, 0.0, 0.0)
    assert values["slots"] == 8
    assert values["data"] == str(tiny_store)
    assert values["compute"] == {"precision": "float32", "memory_format": "contiguous", "device": "cpu", "threads": 1,
                                 "workers": 0, "strategy": "auto", "sync_bn_ranks": 0, "checkpointing": "none",
                                 "compile": False}


def test_the_exported_encoder_is_the_trained_one_and_loads_elsewhere(finished: Path, tiny_store: Path) -> None:
    card = read_model(finished)
    assert (card.domain, card.method, card.backbone, card.field) == ("galaxy", "byol", "test_resnet", "image")
    assert (card.steps, card.images, card.channels) == (9, 72, ("r", "g", "b"))
    (record,) = card.stores
    assert (record.path, record.digest) == (str(tiny_store), Store(tiny_store).digest)
    assert record.tables == Store(tiny_store).table_digests()
    assert card.label_columns == ("smooth_yes", "smooth_no", "arms_1", "arms_2", "arms_more", "class")
    assert card.label_note == "drawn at random"
    assert set(card.label_rows) == {"smooth", "arms", "class"}
    assert 0 < card.label_rows["class"] < 48
    trained = stored(checkpoints(finished)[-1])
    exported = load_file(finished / WEIGHTS)
    assert all(torch.equal(value, trained[f"method.encoder.{name}"]) for name, value in exported.items())
    encoder = build_backbone(card.backbone, 3, 0, finished / WEIGHTS).eval()
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, card.features)


def test_metrics_hold_losses_gauges_and_speed(finished: Path) -> None:
    rows = read_metrics(finished)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 9]
    assert [row["images"] for row in rows] == [16, 32, 48, 64, 72]
    for row in rows:
        assert row["loss"] == pytest.approx(row["pair_loss"] + abs(row["cosine"]), rel=1e-5)
        assert row["pair_loss"] == pytest.approx(4 - 4 * row["cosine"], rel=1e-5)
        assert row["images_per_s"] > 0
        assert 0 <= row["data_wait"] <= 1
    assert [row["step"] for row in rows if "std" in row] == [2, 4, 8, 9]
    assert all(MEASURES.keys() <= row.keys() for row in rows if "std" in row)
    assert rows[-1]["tau"] > rows[0]["tau"] >= 0.97


def test_training_moves_the_encoder_and_another_seed_gives_another_run(
    tmp_path: Path, tiny_run: Any, finished: Path
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    tiny_run(again)
    tiny_run(other, seed=1)
    first = load_file(finished / WEIGHTS)
    assert all(torch.equal(value, first[name]) for name, value in load_file(again / WEIGHTS).items())
    assert any(not torch.equal(value, first[name]) for name, value in load_file(other / WEIGHTS).items())


def test_a_dry_run_estimates_and_writes_nothing(tmp_path: Path, tiny_run: Any) -> None:
    out = tmp_path / "run"
    found = tiny_run(out, dry_run=True)
    assert isinstance(found, RunEstimate)
    assert not out.exists()
    assert (found.steps, found.precision, found.memory_format) == (9, "float32", "contiguous")
    assert found.seconds > 0
    assert found.operations_per_image > 1e5
    encoder = sum(p.numel() for p in build_backbone("test_resnet", 3, 0).parameters())
    assert found.parameters > encoder
    (chosen,) = (row for row in found.memory if row.processes == 1 and row.chosen)
    assert chosen.parts.parameters == 4 * found.parameters
    assert 0 < chosen.parts.optimizer - 2 * 4 * found.parameters < 1000  # AdamW: two moments, and counts of steps
    assert chosen.peak_bytes > 4 * 4 * found.parameters


def test_minutes_and_epochs_become_steps(tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciencessl.train.estimate.seconds_per_step", lambda plan: 4.0)
    assert tiny_run(tmp_path / "a", steps=None, minutes=0.2).steps == 3
    assert tiny_run(tmp_path / "b", steps=None, epochs=0.5).steps == 3  # 24 samples of 48, in batches of 8
    assert tiny_run(tmp_path / "c", steps=1).steps == 1


def test_a_run_without_a_length_is_refused_before_anything_is_deleted(
    tmp_path: Path, tiny_run: Any
) -> None:
    out = tmp_path / "run"
    tiny_run(out, steps=2)
    with pytest.raises(ConfigError, match=r"no length: give one of --epochs, --steps and --minutes"):
        tiny_run(out, steps=None, overwrite=True)
    assert (out / WEIGHTS).exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path, tiny_run: Any) -> None:
    out, notes = tmp_path / "run", tmp_path / "notes"
    tiny_run(out, steps=2)
    with pytest.raises(RunError, match=r"exists and is not empty. --resume continues .* --overwrite deletes"):
        tiny_run(out)
    assert tiny_run(out, steps=3, overwrite=True).steps == 3
    notes.mkdir()
    (notes / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"no run folder.*will not delete it"):
        tiny_run(notes, overwrite=True)
    assert (notes / "thesis.txt").read_text() == "precious"
    with pytest.raises(ConfigError, match="--out is missing"):
        tiny_run("")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim__base_lrr": 1}, r"no setting named 'optim.base_lrr'. Did you mean 'optim.base_lr'\?"),
        ({"options__hiden": 1}, r"Did you mean 'options.hidden'\?"),
        ({"labels": ["smoth"]}, r"no such question or column. Did you mean 'smooth'\? Questions: smooth, arms"),
        ({"labels": ["one"]}, r"--labels one: .*1 classes \('same' alone\); give a column with two or more"),
        ({"labels": ["test-only"]}, r"--labels test-only: .*holds 0 classes"),
        ({"labels": ["mag"]}, r"--labels mag: .*measurements such as"),
        ({"labels": ["id"]}, r"--labels id: .*names, not classes"),
        ({"labels": ["class", "class"]}, r"--labels class is given more than once"),
        ({"labels": [], "method": "labels_only", **NO_HEADS}, r"labels is \(\); it must be given with method labels_o"),
    ],
)
def test_what_cannot_be_is_said_before_a_folder_is_made(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny_run: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_votes_on_test_samples_alone_are_no_labels(tmp_path: Path, make_store: Any, tiny_run: Any) -> None:
    import pyarrow as pa

    from sciencessl.spec import LabelSchema, Question
    from sciencessl.store.tables import write_table

    store = make_store(tmp_path / "s.zarr")
    schema = LabelSchema("late", (Question("bar", ("yes", "no")),))
    votes = pa.table({"id": ["g4", "g9"], "bar_yes": [3, 1], "bar_no": [0, 2]})  # every fifth is a test sample
    write_table(store, "late", votes, schema=schema)
    with pytest.raises(ConfigError, match=r"--labels bar: no sample of split=train .* has such a label"):
        tiny_run(tmp_path / "run", data=store, labels=["bar"])


def test_names_that_do_not_exist_are_met_with_the_closest(tmp_path: Path, tiny_run: Any) -> None:
    with pytest.raises(RegistryError, match=r"no method named 'byoll'. Did you mean 'byol'\?"):
        tiny_run(tmp_path / "run", method="byoll")
    with pytest.raises(RegistryError, match=r"no backbone named 'test_resnt'.* Did you mean"):
        tiny_run(tmp_path / "run", backbone="test_resnt")
    with pytest.raises(ConfigError, match=r"no scale named 'laptp'. Did you mean 'laptop'\?"):
        tiny_run(tmp_path / "run", scale="laptp")
    with pytest.raises(StoreError, match="is no store"):
        pretrain(tmp_path / "nothing.zarr", tmp_path / "run")


def test_a_run_starts_from_the_weights_of_another(
    tmp_path: Path, tiny_run: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, torch.Tensor] = {}

    def look(self: Pretraining) -> None:
        before.update({name: value.clone() for name, value in self.method.encoder.state_dict().items()})
        before.update({f"t.{n}": value.clone() for n, value in self.method.target_encoder.state_dict().items()})

    monkeypatch.setattr(Pretraining, "on_fit_start", look)
    for number, source in enumerate((finished, finished / WEIGHTS)):
        tiny_run(tmp_path / f"run{number}", steps=1, labels=[], init_from=str(source))
        exported = load_file(finished / WEIGHTS)
        assert all(torch.equal(before[name], value) for name, value in exported.items())
        assert all(torch.equal(before[f"t.{name}"], value) for name, value in exported.items())
        assert read_model(tmp_path / f"run{number}").init_from == str(source)


@pytest.mark.parametrize("norm", ["group_ws", "none"])
def test_a_run_without_batch_statistics(
    norm: Norm, tmp_path: Path, tiny_run: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, torch.Tensor] = {}

    def look(self: Pretraining) -> None:
        before.update(copy.deepcopy(self.method.state_dict()))

    monkeypatch.setattr(Pretraining, "on_fit_start", look)
    run = tmp_path / "run"
    assert tiny_run(run, norm=norm, steps=2, accumulate=2, compute__precision="bfloat16").finished
    assert read_model(run).norm == norm
    assert checkpoint_identity(run)["backbone"] == f"test_resnet with norm {norm}"
    assert not any("running" in name for name in before)
    targets = {name: value for name, value in before.items() if name.startswith("target_")}
    assert targets
    assert all(torch.equal(value, before[name.removeprefix("target_")]) for name, value in targets.items())
    started = [name for name, value in before.items() if name.endswith("bias") and value.ndim == 1 and value.any()]
    assert any(name.startswith("encoder") for name in started) == (norm == "none")
    exported = load_file(run / WEIGHTS)
    module = run_encoder(run).module
    assert all(torch.equal(value, exported[name]) for name, value in module.state_dict().items())

    tiny_run(tmp_path / "next", norm=norm, steps=1, init_from=str(run))
    assert all(torch.equal(before[f"encoder.{name}"], value) for name, value in exported.items())
    with pytest.raises(ConfigError, match=f"had norm 'batch', and this one would have '{norm}'. Pass --norm batch"):
        tiny_run(tmp_path / "other", norm=norm, init_from=str(finished))
    with pytest.raises(ConfigError, match=f"'test_vit' does not take norm '{norm}'"):
        tiny_run(tmp_path / "other", norm=norm, backbone="test_vit")


def checkpoint_identity(run: Path) -> dict[str, str]:
    found: dict[str, str] = read_checkpoint(checkpoints(run)[-1])["identity"]
    return found


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tiny_run: Any, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"trained backbone 'test_resnet', and .* would train 'test_efficientnet'"):
        tiny_run(tmp_path / "run", backbone="test_efficientnet", init_from=str(finished))
    with pytest.raises(DataError, match=r"does not fit backbone 'test_efficientnet' .*trained on 3 channels"):
        tiny_run(tmp_path / "run", backbone="test_efficientnet", init_from=str(finished / WEIGHTS))
    with pytest.raises(DataError, match="does not exist"):
        tiny_run(tmp_path / "run", init_from=str(tmp_path / "nothing.safetensors"))
    with pytest.raises(RunError, match="no exported model"):
        tiny_run(tmp_path / "run", init_from=str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_says_so_and_keeps_no_broken_checkpoint(tmp_path: Path, tiny_run: Any) -> None:
    changes = {"optim__name": "lars", "optim__base_lr": 1e30, "optim__warmup": 0.0, "labels": []}
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+. Lower optim.base_lr"):
        tiny_run(tmp_path / "a", **changes)
    with pytest.raises(RunError, match=r"a weight is not finite after step \d+. Lower optim.base_lr"):
        tiny_run(tmp_path / "b", **changes, log__every=50, log__checkpoint_every=1)
    for path in checkpoints(tmp_path / "b"):
        assert all(value.isfinite().all() for value in stored(path).values())
    assert "failed after step" in (tmp_path / "a" / "train.log").read_text()


def test_a_damaged_store_ends_the_run_with_its_row(tmp_path: Path, make_store: Any, tiny_run: Any) -> None:
    store = make_store(tmp_path / "s.zarr")
    shard = max((p for p in (store / "fields").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 3] ^= 1
    shard.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match=r"row \d of field 'image' is damaged.*store verify"):
        tiny_run(tmp_path / "run", data=store)


def test_a_store_with_too_little_to_train_on_is_refused(tmp_path: Path, make_store: Any, tiny_run: Any) -> None:
    store = make_store(tmp_path / "s.zarr", rows=1, each=1)
    with pytest.raises(ConfigError, match="split=train holds 1 samples; pretraining needs 2 or more"):
        tiny_run(tmp_path / "run", data=store, labels=[])


def test_a_batch_larger_than_the_split_is_served(tmp_path: Path, tiny_run: Any) -> None:
    assert tiny_run(tmp_path / "run", batch=64, steps=2).images == 128


LOCAL = '''
from __future__ import annotations

from dataclasses import dataclass

from sciencessl.methods.byol import Byol


@dataclass(frozen=True)
class LoudOptions:
    """Settings.

    Attributes:
        hidden: Width.
        out: Width.
        tau_base: Momentum.
        tau_schedule: Of the momentum.
        volume: How loud.
    """

    hidden: int = 16
    out: int = 8
    tau_base: float = 0.9
    tau_schedule: str = "cosine"
    volume: float = 1.0


class Loud(Byol):
    """BYOL with a word."""

    title = "loud"
    Options = LoudOptions

    def after_step(self, step: int, total: int) -> dict[str, float]:
        return {**super().after_step(step, total), "volume": self.options.volume}
'''


def test_a_method_of_ones_own_file_trains_and_its_source_belongs_to_the_run(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "loud.py", tmp_path / "run"
    file.write_text(LOCAL)
    method = f"{file}:Loud"
    tiny_run(out, method=method, steps=2, options__volume=11, labels=[])
    assert read_metrics(out)[-1]["volume"] == 11.0
    identity = checkpoint_identity(out)
    assert identity["method"] == method
    digest = identity["method source"]
    assert len(digest) == 32
    file.write_text(LOCAL + "# changed\n")
    with pytest.raises(RunError, match=f"made with method source '{digest}'"):
        tiny_run(out, resume=True)


def test_swav_trains_on_crops_of_two_sizes_and_keeps_its_queue(tmp_path: Path, tiny_run: Any) -> None:
    changes = {
        "method": "swav", "options__prototypes": 6, "options__frozen_steps": 2, "options__queue": 12,
        "labels": ["class"], "views__small_views": 2, "views__small_size": 16, "steps": 5, "accumulate": 2,
    }  # fmt: skip
    assert tiny_run(tmp_path / "run", **changes).steps == 5
    last = stored(checkpoints(tmp_path / "run")[-1])
    assert last["method._extra_state"].tolist() == [5, 12]
    assert last["method.queue@0"].norm(dim=2).allclose(torch.ones(2, 12))


def test_univip_trains_on_instances_of_stamps_and_says_what_views_it_lacks(tmp_path: Path, tiny_run: Any) -> None:
    changes = {"method": "univip", "options__instances": 2, "views__instance_size": 16, "labels": ["class"], "steps": 2}
    assert tiny_run(tmp_path / "run", views__instances=2, accumulate=2, **changes).finished
    (row,) = read_metrics(tmp_path / "run")
    assert {"scene_cosine", "scene_instance_cosine", "instance_cosine"} <= {k for k, v in row.items() if v is not None}
    with pytest.raises(ConfigError, match=r"compares two scenes and 2 instances twice, .*Set --views\.instances 2"):
        tiny_run(tmp_path / "other", views__instances=0, **changes)


def test_labels_only_trains_on_one_view(tmp_path: Path, tiny_run: Any) -> None:
    result = tiny_run(tmp_path / "run", method="labels_only", labels=["class"], steps=2, **NO_HEADS)
    assert isinstance(result, RunResult)
    assert result.finished
    (row,) = read_metrics(tmp_path / "run")
    assert row["loss"] == row["label_loss"]
    assert "pair_loss" not in row


def test_it_runs_outside_the_main_thread_and_leaves_torch_its_threads(tmp_path: Path, tiny_run: Any) -> None:
    results: list[Any] = []
    threads = torch.get_num_threads()
    changes = {"steps": 2, "compute__threads": threads + 1}
    thread = threading.Thread(target=lambda: results.append(tiny_run(tmp_path / "run", **changes)))
    thread.start()
    thread.join()
    assert results[0].finished
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["compute"]["threads"] == threads + 1
    assert torch.get_num_threads() == threads


def test_the_collapse_warning_reaches_result_and_log(
    tmp_path: Path, tiny_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"point": "the representation is collapsing"}
    monkeypatch.setattr("sciencessl.monitor.watch.collapse_warnings", lambda reading: words)
    told: list[str] = []
    result = tiny_run(tmp_path / "run", tell=told.append)
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("step 4: the representation is collapsing")
    assert f"warning: {result.warnings[0]}" in told
    assert "is collapsing" in (tmp_path / "run" / "train.log").read_text()


def test_a_balanced_run_says_what_it_does_everywhere(tmp_path: Path, tiny_run: Any, finished: Path) -> None:
    out, told = tmp_path / "run", list[str]()
    tiny_run(out, tell=told.append, steps=None, epochs=0.5, sampling__balance="class", labels=["smooth"])
    cost = json.loads((out / "cost.json").read_text())
    told = [line for line in told if not line.startswith("note: ")]
    assert cost["sampling"] == told
    assert told[0] == "an epoch is 48 draws from 48 samples, balanced by class"
    assert sum("times an epoch" in line for line in told) == 5  # three classes, none, and the extremes
    log = (out / "train.log").read_text()
    assert all(line in log for line in told)
    assert (cost["epoch_samples"], cost["epochs"], cost["steps"]) == (48, 0.5, 3)
    card = read_model(out)
    assert card.label_columns == ("smooth_yes", "smooth_no", "class")
    assert card.label_rows["class"] == 32
    assert card.sampling == told[0]
    assert "each of split=train once" in (finished / "train.log").read_text()
    assert read_model(finished).sampling == ""


def test_two_stores_are_one_run(tmp_path: Path, tiny_run: Any, tiny_store: Path, make_store: Any) -> None:
    other = make_store(tmp_path / "other.zarr", seed=1, each=20)
    out = tmp_path / "run"
    told: list[str] = []
    data = [tiny_store, other]
    found = tiny_run(out, data=data, tell=told.append, dry_run=True, sampling__rates=["3", "1"])
    assert (found.epoch_samples, found.epochs) == (80, 9 * 8 / 80)
    assert list(found.sampling) == told[2:]  # after a note on each store, that it was never audited
    assert told[2].startswith("an epoch is 80 draws: 75.0% tiny.zarr (1.25 passes over 48 samples), 25.0% other.zarr")
    told.clear()
    tiny_run(out, data=data, steps=2, tell=told.append)
    assert "an epoch is 80 samples, each of split=train once: 48 of tiny.zarr, 32 of other.zarr" in told
    assert yaml.safe_load((out / "config.yaml").read_text())["data"] == [str(path) for path in data]
    card = read_model(out)
    assert [(store.path, store.digest) for store in card.stores] == [(str(p), Store(p).digest) for p in data]
    assert card.label_rows["class"] == 32 + sum(
        value is not None for value in Store(other).column("class")[Store(other).split("train").all()]
    )


def test_weights_stay_on_their_device_when_lightning_is_done(
    tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Pretraining, "cpu", lambda module: told.append("moved"))
    monkeypatch.setattr("lightning.pytorch.accelerators.CPUAccelerator.teardown", lambda own: told.append("ended"))
    assert tiny_run(tmp_path / "run", steps=1).finished
    assert told == ["ended"]
