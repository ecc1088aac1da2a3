"""`store curate`: embeddings of a store to a table of weights that `pretrain` draws by."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciencessl
from sciencessl.cli import run as command
from sciencessl.config import RunConfig
from sciencessl.curate import hierarchy
from sciencessl.curate.curation import TrainEmbeddings, auto_levels, curate, curation_text, draws
from sciencessl.curate.hierarchy import hierarchical_kmeans
from sciencessl.curate.points import ArrayPoints, Directions
from sciencessl.errors import ConfigError, DataError, RunError, StoreError
from sciencessl.evaluate.embed import embed
from sciencessl.setting_groups import SamplingConfig
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.train.sampling import make_sampling
from sciencessl.train.sampling_words import expected_draws

SHARES = (0.75, 0.15, 0.1)


def write_embeddings(folder: Path, store: Store, index: Sequence[int], values: np.ndarray, parts: int = 3) -> Path:
    folder.mkdir()
    for number, own in enumerate(np.array_split(np.arange(len(index)), parts)):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values[own].ravel()), values.shape[1])
        ids = [store.ids[index[i]] for i in own]
        pq.write_table(pa.table({"id": ids, "embedding": lists}), folder / f"part-{number:05d}.parquet")
    (folder / "embeddings.json").write_text(json.dumps({"encoder": "e", "store": store.digest}))
    return folder


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Store:
    return Store(make_store(tmp_path / "sky.zarr", rows=2, each=75))


@pytest.fixture
def kinds(store: Store) -> np.ndarray:
    """(N,) which of three kinds each sample is, by its embedding."""
    return np.random.default_rng(5).choice(3, len(store), p=SHARES)


@pytest.fixture
def values(kinds: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (3 + np.eye(6)[kinds] + 0.05 * rng.normal(size=(len(kinds), 6))).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, store: Store, values: np.ndarray) -> Path:
    return write_embeddings(tmp_path / "emb", store, range(len(store)), values)


def test_each_kind_of_a_skewed_store_is_drawn_equally_often(store: Store, folder: Path, kinds: np.ndarray) -> None:
    train = store.split("train").all()
    found = curate(store.path, folder, (9, 3), budget=24)
    assert (found.samples, found.without, found.columns) == (len(train), 0, ("weight", "cluster_1", "cluster_2"))
    weight = store.column("weight")
    assert np.bincount(kinds[train], weight[train]) == pytest.approx(8)
    assert np.isnan(np.delete(weight, train)).all()  # neither val nor test take part
    assert found.levels[1].effective_after == pytest.approx(3)
    assert found.levels[1].effective_before == pytest.approx(
        np.exp(-sum(p * np.log(p) for p in np.bincount(kinds[train]) / len(train))))
    assert [level.clusters for level in found.levels] == [9, 3]
    clusters = store.column("cluster_2")[train]
    assert len({(a, b) for a, b in zip(kinds[train], clusters, strict=True)}) == 3


def test_pretraining_draws_what_is_said(store: Store, folder: Path) -> None:
    found = curate(store.path, folder, budget=0.3)
    joined = JoinedStores([Store(store.path)])
    run = RunConfig((str(store.path),), batch=8, sampling=SamplingConfig(weights="weight"))
    sampling = make_sampling(joined, [], run)
    counts = expected_draws(sampling.order)
    assert counts.sum() == pytest.approx(found.samples)
    assert (counts.min(), counts.max()) == (pytest.approx(found.rarest, abs=1e-5), pytest.approx(found.most, abs=1e-5))


def test_samples_without_an_embedding_weigh_an_even_share(
    tmp_path: Path, store: Store, values: np.ndarray
) -> None:
    train = store.split("train").all()
    known = np.sort(np.random.default_rng(0).choice(train, 80, replace=False))
    folder = write_embeddings(tmp_path / "some", store, known, values[known])
    found = curate(store.path, folder, (8,), budget=0.25)
    assert found.without == len(train) - 80
    weight, unknown = store.column("weight"), np.setdiff1d(train, known)
    assert weight[unknown].tolist() == [0.25] * len(unknown)
    assert weight[train].sum() == pytest.approx(found.budget) == pytest.approx(0.25 * len(train))
    assert np.isnan(store.column("cluster_1")[unknown]).all()
    assert f"{found.without} of them have no embedding" in curation_text(found)


def test_an_embedding_of_split_train_alone_gives_the_same_table(
    tmp_path: Path, store: Store, folder: Path, values: np.ndarray
) -> None:
    train = store.split("train").all()
    alone = write_embeddings(tmp_path / "train", store, train, values[train], parts=1)
    first = curate(store.path, folder, (9, 3))
    second = curate(store.path, alone, (9, 3), out=tmp_path / "other", overwrite=True)
    assert second.digest == first.digest  # other files, other blocks, the samples of other splits gone


def test_out_of_core_is_in_memory(store: Store, folder: Path, values: np.ndarray) -> None:
    data = TrainEmbeddings(store, folder)
    train = store.split("train").all()
    exact = values[train].astype(np.float64)
    whole = ArrayPoints((exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32))
    assert isinstance(data.points, Directions)
    ours, theirs = (hierarchical_kmeans(points, (7, 2)) for points in (data.points, whole))
    for one, other in zip(ours.centroids, theirs.centroids, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert [own.tolist() for own in ours.labels] == [own.tolist() for own in theirs.labels]


def test_the_same_call_changes_nothing_and_another_budget_clusters_nothing(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = curate(store.path, folder, (9, 3))

    def fail(*given: Any, **named: Any) -> None:
        raise AssertionError("clustered again")

    monkeypatch.setattr(hierarchy, "descend", fail)
    assert curate(store.path, folder, (9, 3)).digest == first.digest
    with pytest.raises(StoreError, match="has another table 'curated'"):
        curate(store.path, folder, (9, 3), budget=0.5)
    other = curate(store.path, folder, (9, 3), budget=0.5, overwrite=True)
    assert other.digest != first.digest
    assert other.levels[0].effective_before == first.levels[0].effective_before
    monkeypatch.undo()
    with pytest.raises(RunError, match="clusters of other embeddings, levels or seed"):
        curate(store.path, folder, (9, 3), seed=1)


def test_several_curations_lie_beside_each_other(store: Store, folder: Path) -> None:
    curate(store.path, folder, (9, 3))
    found = curate(store.path, folder, (4,), name="coarse")
    assert found.columns == ("coarse_weight", "coarse_cluster_1")
    assert {"weight", "cluster_1", "cluster_2", *found.columns} <= {*store.columns()}


def test_withdrawn_samples_take_no_part(store: Store, folder: Path) -> None:
    gone = store.split("train").all()[:5]
    remove(store.path, [store.ids[i] for i in gone], reason="test")
    again = Store(store.path)
    assert curate(store.path, folder, (9, 3)).samples == len(again.split("train"))
    assert np.isnan(again.column("weight")[gone]).all()


def test_sheets_show_rows_of_the_largest_and_smallest_clusters(store: Store, folder: Path) -> None:
    found = curate(store.path, folder, (24, 3))
    assert [path.name for path in found.sheets] == ["level-1.png", "level-2.png"]
    heights = [cv2.imread(str(path)).shape[0] for path in found.sheets]
    # Ten rows of 24 clusters, and all three of the level above; each is a tile, three lines and a gap.
    assert heights[0] - 6 == pytest.approx((heights[1] - 6) / 3 * 10)


def test_what_is_shown_and_said_is_of_the_clusters_that_there_are(store: Store, folder: Path) -> None:
    found = curate(store.path, folder, (1000, 500))
    assert found.levels[0].clusters <= found.samples
    said = curation_text(found).splitlines()
    assert said[1].endswith("; 1,000 were asked for")
    assert said[2].endswith("; 500 were asked for")
    found = curate(store.path, folder, (3,), overwrite=True)
    assert "asked for" not in curation_text(found)
    assert [path.name for path in found.out.glob("*.png")] == ["level-1.png"]


def test_a_dry_run_writes_nothing(tmp_path: Path, store: Store, folder: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = curate(store.path, folder, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert 0 < found.seconds < 60
    assert found.memory_bytes > 0
    assert "would cluster them into 6: about" in curation_text(found)
    assert found.asked == auto_levels(found.samples) == (6,)


def test_automatic_levels() -> None:
    assert auto_levels(3_000) == (150, 15)
    assert auto_levels(10**6) == (10_000, 1_000, 100, 10)
    assert auto_levels(10**9) == (316_227, 31_622, 3_162, 316, 31)
    assert auto_levels(7) == (1,)


def test_budgets_are_shares_or_numbers() -> None:
    assert (draws(0.25, 80), draws(1, 80), draws(30, 80), draws(900, 80)) == (20, 80, 30, 80)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="a share of the samples, above 0 to 1, or how many"):
            draws(wrong, 80)


def test_embeddings_that_are_not_the_stores_are_refused(
    tmp_path: Path, store: Store, values: np.ndarray, folder: Path, make_store: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=r"holds no embeddings; make them with `sciencessl embed"):
        curate(store.path, tmp_path / "nowhere")
    other = make_store(tmp_path / "other.zarr", rows=1, each=10, seed=3)
    with pytest.raises(DataError, match=f"embeddings of the store with digest {store.digest}, and .*other.zarr has"):
        curate(other, folder)
    test = store.split("test").all()
    of_test = write_embeddings(tmp_path / "test", store, test, values[test])
    with pytest.raises(DataError, match="no embedding of any of the 120 samples of split=train"):
        curate(store.path, of_test)
    (folder / "embeddings.json").write_text('{"encoder": "e", "plan": "p"}')
    with pytest.raises(DataError, match="files that were read under a plan"):
        curate(store.path, folder)
    (folder / "embeddings.json").unlink()
    with pytest.raises(DataError, match="nothing says whose embeddings these are"):
        curate(store.path, folder)


def test_damaged_embeddings_are_refused_in_words(store: Store, folder: Path) -> None:
    last = folder / "part-00002.parquet"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(DataError, match=r"part-00002.parquet cannot be read \(ArrowInvalid: .* Embed again"):
        curate(store.path, folder)
    pq.write_table(pa.table({"name": ["a"]}), folder / "part-00000.parquet")
    with pytest.raises(DataError, match=r"part-00000.parquet cannot be read .* Embed again"):
        curate(store.path, folder)


@pytest.mark.parametrize("name", ["", "../x", "a b"])
def test_a_name_that_no_table_can_have_is_refused_before_anything_is_written(
    tmp_path: Path, store: Store, folder: Path, name: str
) -> None:
    before = {*tmp_path.rglob("*")}
    with pytest.raises(DataError, match="use letters, digits"):
        curate(store.path, folder, name=name)
    assert {*tmp_path.rglob("*")} == before


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path, store: Store, values: np.ndarray) -> None:
    values[store.split("train").all()[:2], 1] = np.nan
    folder = write_embeddings(tmp_path / "bad", store, range(len(store)), values)
    with pytest.raises(DataError, match="2 embeddings are not finite"):
        curate(store.path, folder)
    assert "curated" not in store.tables


def test_the_command_line_takes_what_embed_writes(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    embed("baseline:colour-histogram", store.path, tmp_path / "colours", dtype="float16")
    asked = ["store", "curate", str(store.path), "--embeddings", str(tmp_path / "colours")]
    assert command([*asked, "--levels", "12", "3", "--budget", "40", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["budget"], told["asked"], len(told["levels"])) == (40, [12, 3], 2)
    assert store.column("weight")[store.split("train").all()].sum() == pytest.approx(40)
    assert command([*asked, "--levels", "many"]) == 2
    assert "--levels many: expected auto, or whole numbers such as 1000 100 10" in capsys.readouterr().err
    assert sciencessl.store_curate is curate
