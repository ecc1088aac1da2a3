"""Online probes against independent code: scikit-learn, the vote metrics of `transfer`, and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn import functional

from sciencessl.evaluate.knn import knn_predict
from sciencessl.evaluate.votes import mean_fractions, vote_metrics
from sciencessl.monitor.probes import NEIGHBOURS, Probes
from sciencessl.samples import Batch
from sciencessl.train.labels import LabelSet
from tests.monitor.probe_data import FEATURES, ROWS, make_batch, make_data, stream


def test_what_features_tell_is_read_off_and_what_they_do_not_is_not() -> None:
    features, sets = make_data()
    probes = Probes(sets, FEATURES)
    stream(probes, features, sets, 20)
    assert set(probes.read()) == {f"probe_{probe}_{name}" for probe in ("knn", "linear")
                                  for name in ("class", "smooth", "arms", "bar+ring")}
    assert probes.read() == {}  # each window by itself
    stream(probes, features, sets, 60)
    found = probes.read()
    for probe in ("knn", "linear"):
        assert found[f"probe_{probe}_class"] > 0.93
        assert found[f"probe_{probe}_smooth"] > 0.7  # the votes scatter by themselves
        assert found[f"probe_{probe}_arms"] < 0.1  # the same for all images
        assert 0.65 < found[f"probe_{probe}_bar+ring"] < 0.9  # one of the two is random: 1 and 0.5


def test_the_vote_of_neighbours_is_that_of_the_knn_arm() -> None:
    features, sets = make_data()
    classes = sets[0].values
    known = np.flatnonzero(classes >= 0)
    bank, asked = known[:150], known[150:200]
    # The arm weighs classes by their number in the bank: here all of split=train is in it.
    whole = LabelSet("class", None, ("a", "b", "c"), classes[bank], ("class",), "", ())
    probes = Probes([whole], FEATURES)
    probes.observe(features[bank], make_batch(sets, bank))
    assert probes.read().keys() == {"probe_linear_class"}  # no neighbour yet is no guess
    probes.observe(features[asked], make_batch(sets, asked))
    shares = knn_predict(features[bank].numpy(), classes[bank], features[asked].numpy(), NEIGHBOURS)
    expected = balanced_accuracy_score(classes[asked], shares.argmax(1))
    assert probes.read()["probe_knn_class"] == pytest.approx(expected, abs=1e-6)


def test_votes_are_scored_as_transfer_scores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    features, sets = make_data()
    probes = Probes([sets[1]], FEATURES)
    stream(probes, features, sets, 10)
    probes.read()
    guessed: list[Tensor] = []
    softmax = probes._softmax
    monkeypatch.setattr(probes, "_softmax", lambda outputs: guessed.append(softmax(outputs)) or guessed[-1])
    rows = np.arange(100, 160)
    probes.observe(features[rows], make_batch(sets, rows))
    counts = sets[1].values[rows].astype(np.float64)
    counts = counts[counts.sum(1) > 0]
    row = probes.read()
    for name, columns in (("smooth", slice(0, 2)), ("arms", slice(2, 5))):
        found = vote_metrics(guessed[0].numpy()[:, columns].astype(np.float64), counts[:, columns],
                             mean_fractions(sets[1].values[:, columns]))
        assert row[f"probe_linear_{name}"] == pytest.approx(1 - (found["rmse"] / found["mean_rmse"]) ** 2, abs=1e-5)


def test_the_linear_probe_takes_the_steps_of_adam_on_a_balanced_cross_entropy() -> None:
    features, (classes, _, _) = make_data()
    known = np.flatnonzero(classes.values >= 0)
    probes = Probes([classes], FEATURES)
    weight = torch.zeros(3, FEATURES + 1, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.03 / FEATURES**0.5)
    sizes = np.bincount(classes.values[known])
    balance = torch.tensor(len(known) / 3 / sizes, dtype=torch.float32)
    sums = torch.zeros(2, FEATURES, dtype=torch.float64)
    total = 0.0
    for step in range(6):
        rows = known[step * 10 : step * 10 + 10]
        x = features[rows].float()
        mean, spread = (sums[0] / total, sums[1] / total) if total else (torch.zeros(1), torch.ones(1))
        scale = (spread - mean**2 if total else spread) + 1e-5
        inputs = functional.pad((x - mean.float()) / scale.float().sqrt(), (0, 1), value=1.0)
        target = torch.from_numpy(classes.values[rows])
        loss = (functional.cross_entropy(inputs @ weight.T, target, reduction="none") * balance[target]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = 0.9 * total + 10
        sums = 0.9 * sums + torch.stack([x.double().sum(0), x.double().square().sum(0)])
        probes.observe(features[rows], make_batch([classes], rows))
    torch.testing.assert_close(probes.weight, weight.detach(), atol=2e-4, rtol=2e-3)


def test_a_sample_is_no_neighbour_of_itself() -> None:
    # Labels without meaning: another view of the same image would be the nearest, and right.
    rng = np.random.default_rng(0)
    features, classes = torch.from_numpy(rng.normal(size=(40, FEATURES))), rng.integers(0, 2, 40)
    sets = [LabelSet("class", None, ("a", "b"), classes, ("class",), "", ())]
    probes, rows = Probes(sets, FEATURES), np.arange(40)
    for _ in range(2):
        probes.observe(features, make_batch(sets, rows))
    assert probes.read()["probe_knn_class"] < 0.75
    one = LabelSet("class", None, ("a", "b"), np.array([0, 1]), ("class",), "", ())
    alone = Probes([one], FEATURES)
    for _ in range(2):
        alone.observe(features[:1], make_batch([one], np.array([0])))
    assert "probe_knn_class" not in alone.read()


def test_positions_are_told_apart_in_a_store_of_a_billion() -> None:
    sets = [LabelSet("class", None, ("a", "b"), np.array([0, 1, 0, 1]), ("class",), "", ())]
    probes = Probes(sets, FEATURES)
    batch = make_batch(sets, np.arange(4))
    for start in (3_000_000_000, 3_000_000_001):
        probes.observe(torch.eye(4, FEATURES), Batch([], batch.labels, batch.ids, np.arange(start, start + 4)))
    kept = probes.bank[:8, -2].long() * 2**20 + probes.bank[:8, -1].long()
    assert kept.tolist() == [3_000_000_001 + i for i in range(4)] + [3_000_000_000 + i for i in range(4)]


def test_the_bank_keeps_the_newest_labelled_rows() -> None:
    features, sets = make_data()
    probes = Probes(sets[:1], FEATURES, bank=30)
    rows = np.arange(100)
    for start in range(0, 100, 20):
        probes.observe(features[start : start + 20], make_batch(sets, rows[start : start + 20]))
    labelled = [rows[start : start + 20][sets[0].values[start : start + 20] >= 0] for start in range(80, -1, -20)]
    assert probes.bank[:, -1].long().tolist() == np.concatenate(labelled)[:30].tolist()
    probes.observe(features, make_batch(sets, np.arange(ROWS)))  # more rows than it holds
    assert probes.bank.shape == (30, FEATURES + 3 + 2)


def test_a_batch_without_labels_changes_nothing() -> None:
    features, sets = make_data()
    probes = Probes(sets, FEATURES)
    stream(probes, features, sets, 3)
    before = {name: value.clone() for name, value in probes.state_dict().items()}
    bare = make_batch(sets, np.arange(5))
    for found in sets:
        bare.labels[found.name].fill_(-1 if found.schema is None else 0)
    probes.observe(features[:5], bare)
    assert all(torch.equal(value, before[name]) for name, value in probes.state_dict().items())


def test_features_are_left_alone_and_nothing_is_trained_or_drawn() -> None:
    features, sets = make_data()
    probes, state = Probes(sets, FEATURES), torch.random.get_rng_state()
    rows = np.arange(20)
    seen = features[rows].clone().requires_grad_()
    probes.observe(seen * 1.0, make_batch(sets, rows))
    assert seen.grad is None
    assert torch.equal(seen.detach(), features[rows])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(probes.parameters()) == []
    assert all(not value.requires_grad for value in probes.buffers())


def test_what_was_saved_goes_on_the_same() -> None:
    features, sets = make_data()
    probes, again = Probes(sets, FEATURES), Probes(sets, FEATURES)
    stream(probes, features, sets, 7)
    again.load_state_dict(probes.state_dict())
    for one in (probes, again):
        stream(one, features, sets, 4)
    assert probes.read() == again.read()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in probes.state_dict().items())
