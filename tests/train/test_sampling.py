"""From settings to an order: shares, counts and ranks as asked for, and the words that say what a setting does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.config import RunConfig
from sciencessl.data import runs
from sciencessl.data.mixture import Mixture
from sciencessl.data.order import Order
from sciencessl.data.runs import longest_run
from sciencessl.data.weights import WeightedOrder
from sciencessl.errors import ConfigError, DataError
from sciencessl.setting_groups import SamplingConfig
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.labels import find_labels
from sciencessl.train.sampling import Sampling, check_stores, make_sampling
from sciencessl.train.sampling_words import expected_draws, sampling_words

BATCH = 16
KINDS: dict[str, dict[str, Any]] = {
    "plain": {}, "balanced": {"balance": "class"}, "tempered": {"balance": "class", "exponent": 0.5},
    "weighted": {"weights": "score"}, "rated": {"rates": (3, 1)},
    "rated and balanced": {"rates": (1, 3), "balance": "class"},
    "rated and weighted": {"rates": (1, 1), "weights": "only-a"}, "labelled": {"labelled_share": 0.25},
    "labelled and balanced": {"labelled_share": 0.5, "balance": "class"},
    "labelled and weighted": {"labelled_share": 0.5, "weights": "score"},
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> JoinedStores:
    """Two stores of 48 and 64 training samples, with weights, the second with fewer labels."""
    folder = tmp_path_factory.mktemp("pair")
    for name, each, seed in (("a", 30, 0), ("b", 40, 1)):
        path = make_store(folder / f"{name}.zarr", each=each, seed=seed)
        ids = Store(path).ids
        score = pa.array(np.arange(len(ids)) % 5 * 0.5)
        write_table(path, "curation", pa.table({"id": ids, "score": score, f"only-{name}": score}), note=f"by {name}")
    return JoinedStores([Store(folder / "a.zarr"), Store(folder / "b.zarr")])


def sample(store: JoinedStores, batch: int = BATCH, seed: int = 7, **settings: Any) -> Sampling:
    labels = ["class"] if "labelled_share" in settings else []
    paths = tuple(str(part.path) for part in store.stores)
    run = RunConfig(paths, labels=tuple(labels), batch=batch, seed=seed, sampling=SamplingConfig(**settings))
    return make_sampling(store, find_labels(store, labels), run)


def train_column(store: JoinedStores, name: str) -> np.ndarray:
    found: np.ndarray = store.column(name)[store.split("train").all()]
    return found


def has_class(store: JoinedStores) -> np.ndarray:
    return np.array([value is not None for value in train_column(store, "class")])


def test_without_settings_the_order_is_the_plain_one(pair: JoinedStores) -> None:
    one = JoinedStores(pair.stores[:1])
    assert sample(one).order == Order(48, 7, BATCH, longest_run(one, BATCH))
    assert sample(pair).order == Order(112, 7, BATCH, longest_run(pair, BATCH))
    assert not sample(pair).changed
    assert sample(pair).taken(5) == (80,)


@pytest.mark.parametrize("kind", KINDS)
def test_every_world_size_sees_the_same_batches(kind: str, pair: JoinedStores) -> None:
    order = sample(pair, **KINDS[kind]).order
    for world, step in itertools.product((1, 2, 4), (0, 3, 77)):
        parts = [order.rank_part(step, rank, world) for rank in range(world)]
        whole = order.take(step * BATCH, (step + 1) * BATCH)
        for side in (0, 1):
            assert np.array_equal(np.concatenate([part[side] for part in parts]), whole[side])


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_as_often_as_is_said(kind: str, pair: JoinedStores) -> None:
    """In each epoch of a part the floor or ceiling, in the mean over many epochs the number itself."""
    sampling = sample(pair, **KINDS[kind])
    epochs = 120
    expected = expected_draws(sampling.order)
    positions = sampling.order.take(0, epochs * sampling.order.length)[1]
    found = np.bincount(positions, minlength=len(expected)) / epochs
    assert expected.sum() == pytest.approx(sampling.order.length)
    np.testing.assert_allclose(found, expected, atol=0.12)
    assert ((found > 0) == (expected > 0)).all()
    for part in sampling.parts:
        size = part.length
        own = expected_draws(part)
        counts = np.bincount(part.take(3 * size, 4 * size)[1], minlength=len(own))
        assert (counts >= np.floor(own - 1e-9)).all()
        assert (counts <= np.ceil(own + 1e-9)).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_each_batch_and_rank_holds_the_labelled_share(balanced: bool, pair: JoinedStores) -> None:
    known = has_class(pair)
    order = sample(pair, labelled_share=0.25, **({"balance": "class"} if balanced else {})).order
    for step, world in itertools.product(range(40), (1, 2, 4)):
        for rank in range(world):
            assert known[order.rank_slice(step, rank, world)].sum() == BATCH // world // 4


def test_each_batch_and_rank_holds_the_rates(pair: JoinedStores) -> None:
    sampling = sample(pair, rates=(3, 1))
    for step, world in itertools.product(range(40), (1, 2, 4)):
        for rank in range(world):
            assert (sampling.order.rank_slice(step, rank, world) < 48).sum() == 3 * BATCH // world // 4
    assert sampling.taken(10) == (120, 40)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_classes_have_the_shares_of_their_exponent(exponent: float, pair: JoinedStores) -> None:
    """Drawn from as one store: a class of n samples has n ** (1 - exponent) of what all classes have."""
    classes = train_column(pair, "class")
    names = [name for name in set(classes) if name is not None]
    draws = expected_draws(sample(pair, balance="class", exponent=exponent).order)
    counts = np.array([(classes == name).sum() for name in names])
    shares = np.array([draws[classes == name].sum() for name in names])
    np.testing.assert_allclose(shares / shares.sum(), counts ** (1 - exponent) / (counts ** (1 - exponent)).sum())
    unknown = ~has_class(pair)
    np.testing.assert_allclose(draws[unknown], 1.0)


def test_with_rates_each_store_is_balanced_by_itself(pair: JoinedStores) -> None:
    classes, draws = train_column(pair, "class"), expected_draws(sample(pair, rates=(1, 3), balance="class").order)
    for part, total in ((slice(0, 48), 0.25), (slice(48, None), 0.75)):
        shares = [draws[part][classes[part] == name].sum() for name in ("round", "edge-on", "spiral")]
        np.testing.assert_allclose(shares, shares[0])
        assert draws[part].sum() == pytest.approx(112 * total)


@pytest.mark.parametrize(("kind", "parts"), [({}, 1), ({"rates": (3, 1)}, 2), ({"labelled_share": 0.25}, 2)])
def test_the_parts_of_a_mixture_share_what_a_loader_keeps(
    kind: dict[str, Any], parts: int, pair: JoinedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two samples for each of five runs in each of eight slots: less than both stores hold.
    monkeypatch.setattr(runs, "IN_USE_BYTES", 2 * 5 * 8 * runs.sample_bytes(pair))
    dealt = sample(pair, batch=8, **kind).parts
    longest = {part.run if isinstance(part, WeightedOrder) else part.longest_run for part in dealt}
    assert longest == {2 // parts}


def test_a_store_without_the_column_is_drawn_from_evenly_at_its_rate(pair: JoinedStores) -> None:
    order = sample(pair, rates=(1, 1), weights="only-a").order
    weights = train_column(pair, "only-a")[:48]
    assert order.length == (weights > 0).sum() + 64
    draws = expected_draws(order)
    np.testing.assert_allclose(draws[48:], order.length / 2 / 64)
    np.testing.assert_allclose(draws[:48], order.length / 2 * weights / weights.sum())


def test_with_a_labelled_share_classes_are_balanced_among_the_labelled(pair: JoinedStores) -> None:
    classes = train_column(pair, "class")
    draws = expected_draws(sample(pair, labelled_share=0.5, balance="class").order)
    shares = [draws[classes == name].sum() for name in ("round", "edge-on", "spiral")]
    np.testing.assert_allclose(shares, 112 / 2 / 3)
    assert np.ptp(draws[~has_class(pair)]) == 0


def test_identity_tells_apart_what_orders_apart(pair: JoinedStores) -> None:
    told = [sample(pair, **settings).identity() for settings in KINDS.values()]
    assert len(set(told)) == len(KINDS)
    assert told == [sample(pair, **settings).identity() for settings in KINDS.values()]
    assert sample(pair, labelled_share=0.25).identity() != sample(pair, labelled_share=0.5).identity()


def test_the_words_say_what_an_epoch_is(pair: JoinedStores) -> None:
    one = JoinedStores(pair.stores[:1])
    assert sampling_words(sample(one), one) == ["an epoch is 48 samples, each of split=train once"]
    assert sampling_words(sample(pair), pair) == [
        "an epoch is 112 samples, each of split=train once: 48 of a.zarr, 64 of b.zarr"
    ]
    assert sampling_words(sample(pair, rates=(3, 1)), pair) == [
        "an epoch is 112 draws: 75.0% a.zarr (1.75 passes over 48 samples), 25.0% b.zarr (0.44 passes over 64 samples)"
    ]
    known = int(has_class(pair).sum())
    assert sampling_words(sample(pair, labelled_share=0.25), pair) == [
        f"an epoch is 112 draws: 25.0% labelled ({28 / known:.2f} passes over {known} samples), 75.0% unlabelled "
        f"({84 / (112 - known):.2f} passes over {112 - known} samples)"
    ]


def test_the_words_say_what_balance_does(pair: JoinedStores) -> None:
    one = JoinedStores(pair.stores[:1])
    classes = train_column(one, "class")
    first, *lines, last = sampling_words(sample(one, balance="class"), one)
    assert first == "an epoch is 48 draws from 48 samples, balanced by class"
    known = sum(value is not None for value in classes)
    for name in ("round", "edge-on", "spiral"):
        count = int((classes == name).sum())
        (line,) = [line for line in lines if f"class {name} " in line]
        assert line.endswith(f"{count} samples: {count / 48:.1%} of all, {known / 3 / 48:.1%} of draws, each "
                             f"{known / 3 / count:.2f} times an epoch")
    counts = [int((classes == name).sum()) for name in ("round", "edge-on", "spiral")]
    assert last.endswith(f"sample comes {known / 3 / min(counts):.2f} times an epoch, the least frequent "
                         f"{known / 3 / max(counts):.2f} times")


def test_the_words_of_weights_count_those_that_never_come(pair: JoinedStores) -> None:
    first, last = sampling_words(sample(pair, weights="score"), pair)
    weights = train_column(pair, "score")
    positive = weights[weights > 0]
    assert first == (f"an epoch is {len(positive)} draws from 112 samples (48 of a.zarr, 64 of b.zarr), by the weights "
                     "score")
    most, least = (len(positive) * value / weights.sum() for value in (positive.max(), positive.min()))
    assert last.endswith(f"comes {most:.2f} times an epoch, the least frequent {least:.2f} times; "
                         f"{112 - len(positive)} samples never come")


def test_the_words_of_a_mixture_count_passes_over_samples_that_come(pair: JoinedStores) -> None:
    weights = train_column(pair, "only-a")[:48]
    some = int((weights > 0).sum())
    first, last = sampling_words(sample(pair, rates=(1, 1), weights="only-a"), pair)
    half = (some + 64) / 2
    assert first == (f"an epoch is {some + 64} draws: 50.0% a.zarr ({half / some:.2f} passes over {some} samples), "
                     f"50.0% b.zarr ({half / 64:.2f} passes over 64 samples), within each by the weights only-a")
    assert last.endswith(f"; {48 - some} samples never come")


def test_a_sample_that_comes_once_in_a_thousand_epochs_is_not_said_to_come_never(
    tmp_path: Path, make_store: Any
) -> None:
    store = Store(make_store(tmp_path / "s.zarr"))
    weights = np.ones(len(store))
    weights[store.split("train").all()[0]] = 0.001
    write_table(store.path, "w", pa.table({"id": store.ids, "w": weights}))
    one = JoinedStores([store])
    assert sampling_words(sample(one, weights="w"), one)[-1].endswith("the least frequent 0.001 times")


def test_of_many_classes_the_largest_and_smallest_are_shown(tmp_path: Path, make_store: Any) -> None:
    store = Store(make_store(tmp_path / "s.zarr"))
    clusters = np.minimum(np.arange(60) // 3, 9)
    write_table(store.path, "clusters", pa.table({"id": [f"g{i}" for i in range(60)], "cluster": clusters}))
    one = JoinedStores([store])
    lines = sampling_words(sample(one, balance="cluster"), one)
    assert "cluster 9" in lines[1]
    assert lines[4] == "  ... and 4 more"
    assert len(lines) == 1 + 3 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance": "clas"}, r"--sampling.balance clas: .*b.zarr has no such column. Did you mean 'class'\?"),
        ({"balance": "mag"}, "--sampling.balance mag: .*measurements such as"),
        ({"balance": "id"}, "these are names, not classes"),
        ({"balance": "one"}, r"holds 1 classes \('same' alone\); give a column with two or more"),
        ({"weights": "class"}, r"--sampling.weights class: it holds '.*', expected numbers. For classes use"),
        ({"weights": "mag"}, r"\d+ of 112 samples .* have no weight that can be used, the first -.* at id 'g\d+'"),
        ({"weights": "only-a"}, r"64 of 112 samples .* the first none at id 'g\d+' of .*b.zarr.*--sampling.rates"),
    ],
)
def test_a_column_that_does_not_serve_is_refused(settings: dict[str, Any], message: str, pair: JoinedStores) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(pair, **settings)


def test_rates_are_one_a_store(pair: JoinedStores) -> None:
    with pytest.raises(ConfigError, match=r"sampling.rates is \[2\]; it must be one number for each of 2 stores \("):
        sample(pair, rates=(2,))


def test_a_share_of_what_is_all_labelled_is_refused(pair: JoinedStores) -> None:
    run = RunConfig(("a", "b"), labels=("night",), batch=BATCH, sampling=SamplingConfig(labelled_share=0.5))
    with pytest.raises(ConfigError, match="every sample of split=train has a label"):
        make_sampling(pair, find_labels(pair, ["night"]), run)


def test_weights_that_are_all_zero_draw_nothing(tmp_path: Path, make_store: Any) -> None:
    store = Store(make_store(tmp_path / "s.zarr"))
    write_table(store.path, "none", pa.table({"id": store.ids, "zero": [0.0] * 60}))
    with pytest.raises(DataError, match="none of 48 samples weighs more than 0"):
        sample(JoinedStores([store]), weights="zero")


def test_stores_that_cannot_be_joined_are_refused(pair: JoinedStores, tmp_path: Path, make_store: Any) -> None:
    with pytest.raises(ConfigError, match=r"a.zarr and .*a.zarr are the same store. Name it once"):
        check_stores(JoinedStores([*pair.stores, pair.stores[0]]))
    tiny = Store(make_store(tmp_path / "s.zarr", rows=1, each=1))
    with pytest.raises(ConfigError, match=r"s.zarr: split=train holds 1 samples; pretraining needs 2 or more"):
        check_stores(JoinedStores([tiny]))


def test_parts_have_seeds_of_their_own(pair: JoinedStores) -> None:
    order = sample(pair, rates=(1, 1)).order
    assert isinstance(order, Mixture)
    assert order.parts[0].seed != order.parts[1].seed
    assert sample(pair, rates=(1, 1), seed=8).order.positions(0).tolist() != order.positions(0).tolist()
