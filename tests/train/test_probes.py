"""Online probes in a run: it trains as without them, and when stopped goes on with the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from sciencessl.errors import ConfigError
from sciencessl.evaluate.export_words import card_sentences
from sciencessl.monitor.probes import Probes
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.checkpoint import checkpoint_path
from sciencessl.train.folder import WEIGHTS, read_metrics, read_model
from sciencessl.train.labels import find_probes
from sciencessl.train.module import Pretraining
from tests.monitor.probe_data import FEATURES, make_data, share_of_a_rank, stream
from tests.train.stored import stored
from tests.train.test_distributed_runs import run_part

ASKED = ["arms", "night", "bar+ring"]
TIMING = {"images_per_s", "data_wait"}


@pytest.fixture(scope="module")
def store(make_store: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the tiny store, and two labels that stand side by side."""
    path: Path = make_store(tmp_path_factory.mktemp("probes") / "store.zarr")
    ids = [f"g{i}" for i in range(60)]
    bar = [None if i % 4 == 0 else i % 2 for i in range(60)]
    ring = [i % 3 == 0 for i in range(60)]
    write_table(path, "marks", pa.table({"id": ids, "bar": pa.array(bar, pa.int8()), "ring": ring}))
    return path


@pytest.fixture(scope="module")
def probed(store: Path, tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `finished`, with probes of each kind."""
    out = tmp_path_factory.mktemp("probed") / "run"
    assert tiny_run(out, data=store, probes=ASKED).finished
    return out


def rows_of(run: Path, probes: bool = True) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items()
             if name not in TIMING and (probes or not name.startswith("probe_"))} for row in read_metrics(run)]


def test_probes_leave_the_run_as_it_is(probed: Path, finished: Path) -> None:
    weights, expected = load_file(probed / WEIGHTS), load_file(finished / WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert rows_of(probed, probes=False) == rows_of(finished)
    names = {f"probe_{probe}_{name}" for probe in ("knn", "linear") for name in ASKED}
    for row in read_metrics(probed)[1:]:
        assert names <= set(row)
        assert all(0 <= row[name] <= 1 for name in names if not name.endswith("_arms"))
        assert all(row[name] <= 1 for name in names)


def test_the_card_names_what_was_probed_beside_what_was_learned(probed: Path, finished: Path) -> None:
    card = read_model(probed)
    assert card.probe_columns == ("night", "bar", "ring")  # the run learned from arms
    assert card.label_rows == read_model(finished).label_rows
    assert read_model(finished).probe_columns == ()
    assert card_sentences(card)[2] == (
        "Online probes read night, bar, ring while it trained: it did not learn from them, but may have been chosen by "
        "them."
    )


def test_a_stopped_run_goes_on_with_the_same_scores(
    probed: Path, store: Path, tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Pretraining.on_train_batch_start

    def stop(self: Pretraining, *args: Any) -> Any:
        self.stop_requested |= self.taken == 4
        return inner(self, *args)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "on_train_batch_start", stop)
        assert tiny_run(out, data=store, probes=ASKED).steps == 5  # between two lines of metrics
    assert tiny_run(out, resume=True).finished
    assert rows_of(out) == rows_of(probed)


def test_labels_outside_training_are_hidden_and_unknown_ones_are_no_vote(store: Path) -> None:
    plain = Store(store)
    train = plain.split_codes() == 0
    (found,) = find_probes(JoinedStores([plain]), ["bar+ring"])
    assert (found.columns, found.tables, found.labelled) == (("bar", "ring"), (("marks",),), train.sum())
    assert (found.values[~train] == 0).all()
    number = np.array([int(name[1:]) for name in plain.ids])
    bar = np.where(number % 4 == 0, np.nan, number % 2)
    expected = np.stack([bar == 0, bar == 1, number % 3 != 0, number % 3 == 0], axis=1)
    assert np.array_equal(found.values[train], expected[train])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["classs"], "--probes classs: .* has no such question or column. Did you mean 'class'?"),
        (["night", "night"], "--probes night is given more than once"),
        (["bar+ring", "bar+ring"], "--probes bar\\+ring is given more than once"),
        (["bar+class"], "--probes bar\\+class: column 'class' of .* holds '.*'; columns joined by \\+ are labels that"),
        (["bar+mag"], "--probes bar\\+mag: column 'mag' of .*; columns joined by \\+ are labels that"),
        (["bar+rign"], "--probes bar\\+rign: .* has no column 'rign'. Did you mean 'ring'\\? Columns joined by"),
        (["test-only"], "--probes test-only: split=train of .* holds 0 classes"),
    ],
)
def test_what_cannot_be_probed_is_told_before_anything_is_written(
    names: list[str], message: str, store: Path, tmp_path: Path, tiny_run: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_run(tmp_path / "run", data=store, probes=names)
    assert not (tmp_path / "run").exists()


def test_two_processes_have_the_linear_probe_and_scores_of_one(both: Any) -> None:
    (row, state), (other_row, other) = both(share_of_a_rank)
    assert row == other_row
    assert all(np.array_equal(value, other[name]) for name, value in state.items() if name != "scores")
    features, sets = make_data()
    probes = Probes(sets, FEATURES)
    stream(probes, features, sets, 8)
    np.testing.assert_allclose(state["weight"], probes.state_dict()["weight"].numpy(), rtol=1e-3, atol=1e-5)
    expected = probes.read()
    for name in ("class", "smooth", "arms", "bar+ring"):
        assert row[f"probe_linear_{name}"] == pytest.approx(expected[f"probe_linear_{name}"], abs=1e-4)
        assert f"probe_knn_{name}" in row


def test_two_processes_go_on_with_the_same_scores(
    both: Any, store: Path, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny_settings, "labels": [], "probes": ASKED, "steps": 5}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert [found[:2] for found in both(run_part, store, whole, settings)] == [(5, True)] * 2
    assert [found[:2] for found in both(run_part, store, parts, settings, False, 2)] == [(4, False)] * 2
    assert [found[:2] for found in both(run_part, store, parts, {}, True)] == [(5, True)] * 2
    rows = rows_of(whole)
    assert rows == rows_of(parts)
    assert {f"probe_knn_{name}" for name in ASKED} <= rows[-1].keys()
    # Each rank has a bank of its own: half of the rows.
    banks = {name: value for name, value in stored(checkpoint_path(whole, 5)).items() if "bank" in name}
    places = [set(map(tuple, value[value[:, -1] >= 0][:, -2:].tolist())) for value in banks.values()]
    assert len(places) == 2
    assert all(places)
    assert places[0] != places[1]
