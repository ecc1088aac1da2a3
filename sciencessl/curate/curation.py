"""`store curate`: weights of samples by which clusters of a hierarchy come evenly, as a table beside the pixels."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sciencessl.curate.balance import Float64, balanced_counts, cluster_sizes, effective_number, gini
from sciencessl.curate.hierarchy import PASSES, RESAMPLINGS, Checkpoint, Hierarchy, check_levels, hierarchical_kmeans
from sciencessl.curate.lloyd import SAMPLE, Search
from sciencessl.curate.points import Directions
from sciencessl.curate.sheets import write_sheets
from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.embedded import EMBEDDING, Embedded, read_folder, read_ids
from sciencessl.evaluate.feature_table import SHARDS
from sciencessl.evaluate.knn import unit_rows
from sciencessl.store.format import digest
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import beside, local_path
from sciencessl.store.tables import REMOVALS, check_name, write_table

NAME = "curated"
BUDGET = 0.2
"""Share of the samples that an epoch would draw if none came twice. Ours: no sample then comes more than five times as
often as the average one, which a network does not learn by heart."""

EACH, FALL, LEAST = 20, 10, 10
"""Of `auto_levels`: fewest samples to a cluster, clusters to a cluster of the next level, and fewest of a level."""


@dataclass(frozen=True)
class LevelReport:
    """How samples and draws spread over the clusters of a level.

    Attributes:
        clusters: k.
        smallest: Samples of the smallest.
        median: Of the median one.
        largest: Of the largest.
        effective_before: Equal clusters that would be as diverse, when each sample is drawn once.
        effective_after: When samples are drawn by their weights.
        gini_before: Gini coefficient of the samples of each.
        gini_after: Of the draws of each.
    """

    clusters: int
    smallest: int
    median: float
    largest: int
    effective_before: float
    effective_after: float
    gini_before: float
    gini_after: float


@dataclass(frozen=True)
class Curation:
    """What `curate` wrote, or would do.

    Attributes:
        store: The store.
        name: Of the table.
        columns: Of the table, the weight first.
        samples: Of split=train.
        without: Of these, samples that have no embedding.
        even: Weight of a sample when all are drawn evenly, which those have.
        levels: From the lowest; of a dry run, none.
        asked: Clusters of each level that were asked for.
        budget: Sum of the weights.
        rarest: Draws of the sample that comes least often, in an epoch of as many draws as samples.
        most: Of the one that comes most often.
        digest: Of the table; empty for a dry run.
        sheets: Contact sheets of the largest and smallest clusters of each level.
        out: Folder of the sheets, and of what a stopped call goes on from.
        dry_run: Whether nothing was written.
        seconds: Wall time; of a dry run, an estimate.
        memory_bytes: Most memory of a dry run's estimate; else 0.
    """

    store: Path
    name: str
    columns: tuple[str, ...]
    samples: int
    without: int
    even: float
    levels: tuple[LevelReport, ...]
    asked: tuple[int, ...]
    budget: float
    rarest: float
    most: float
    digest: str
    sheets: tuple[Path, ...]
    out: Path
    dry_run: bool
    seconds: float
    memory_bytes: int = 0


def curate(
    store: str | Path, embeddings: str | Path, levels: Sequence[int] | Literal["auto"] = "auto", budget: float = BUDGET,
    name: str = NAME, seed: int = 0, out: str | Path = "", dry_run: bool = False, overwrite: bool = False,
) -> Curation:
    """Cluster the samples of split=train by their embeddings, and write how often each is to be drawn as a table.

    The table has `id`, `weight` (expected draws when the epoch is `budget` draws and none comes twice: 0 to 1) and
    `cluster_1`, `cluster_2`... from the lowest level up; a table of another name than `curated` has that name before
    them (`NAME_weight`), so that several can lie beside each other. `pretrain --sampling.weights weight` draws by it.
    Samples of val and test take no part: what is tested on must not decide what is learned from. A sample without an
    embedding has no cluster and weighs what it would if all were drawn evenly. Clusters are kept in `out`: a call that
    was stopped goes on, and one with another budget takes seconds.

    Args:
        store: A sealed store.
        embeddings: Folder that `embed` wrote for it, of all samples or split=train.
        levels: Clusters of each level from the lowest up, or `auto` (`auto_levels`).
        budget: A share of the samples, to 1; or a number of them, above 1.
        name: Of the table.
        seed: Of samples and seeding.
        out: Folder; by default NAME.curated beside the store.
        dry_run: Time a few samples, and write nothing.
        overwrite: Replace clusters of other embeddings, levels or seed in `out`, and another table of that name.

    Raises:
        ConfigError: For levels or a budget that cannot be, or the name of the withdrawn samples' table.
        DataError: When embeddings are not those of the store, damaged, not finite, or none belongs to split=train; for
            a name that no table can have.
        RunError: When `out` holds something else.
        StoreError: When the store is missing or unsealed, or has another table of that name.
    """
    started = time.perf_counter()
    if name == REMOVALS:
        raise ConfigError(f"table {name!r} is written by `sciencessl store remove`; choose another --name.")
    check_name(name)
    opened = Store(store)
    data = TrainEmbeddings(opened, local_path(embeddings, "--embeddings"))
    asked = auto_levels(len(data.index)) if levels == "auto" else tuple(levels)
    check_levels(asked)
    total = draws(budget, len(data.train))
    folder = local_path(out) if out else beside(opened.path, f".{name}")
    start = "" if name == NAME else f"{name}_"
    columns = (f"{start}weight", *(f"{start}cluster_{level + 1}" for level in range(len(asked))))
    even, without = total / len(data.train), len(data.train) - len(data.index)
    if dry_run:
        seconds, memory = data.estimate(asked)
        return Curation(opened.path, name, columns, len(data.train), without, even, (), asked, total, math.nan,
                        math.nan, "", (), folder, True, seconds, memory)
    kept = Checkpoint(folder, data.card | {"levels": asked, "seed": seed, "passes": PASSES,
                                           "resamplings": RESAMPLINGS})
    kept.claim(overwrite)
    found = hierarchical_kmeans(data.points, asked, seed, kept=kept)
    own = balanced_counts(found.labels, even * len(data.index))
    weights = np.full(len(data.train), even)
    weights[data.place] = own
    note = (f"balanced over clusters of embeddings: {' '.join(map(str, asked))} by hierarchical k-means, "
            f"budget {total:g} of {len(data.train)}, seed {seed}")
    table = pa.table({"id": data.ids, **_columns(columns, weights, found, data.place)})
    with only_writer(opened.path):
        written = write_table(opened.path, name, table, note=note, overwrite=overwrite)
    sheets = write_sheets(folder, opened, data.index, found, own / even, seed)
    relative = weights / even
    return Curation(
        opened.path, name, columns, len(data.train), without, even, _reports(found, own), asked, total,
        float(relative.min()), float(relative.max()), written.digest, sheets, folder, False,
        time.perf_counter() - started,
    )


def auto_levels(samples: int) -> tuple[int, ...]:
    """Levels for n samples: min(n / 20, 10 sqrt(n)) clusters, then a tenth of those, and so on down to 10. Ours.

    Twenty samples each, so that a rare kind of some dozens has a cluster; the root bounds the cost, n k, of many.
    """
    k = max(1, min(samples // EACH, math.isqrt(100 * samples)))
    levels = [k]
    while levels[-1] >= FALL * LEAST:
        levels.append(levels[-1] // FALL)
    return tuple(levels)


def draws(budget: float, samples: int) -> float:
    """Draws that a budget means: a share to 1 of the samples, or a number above 1, at most one a sample.

    Raises:
        ConfigError: For a budget that is not above 0.
    """
    if not 0 < budget < math.inf:
        raise ConfigError(f"--budget {budget:g}: expected a share of the samples, above 0 to 1, or how many.")
    return min(budget if budget > 1 else budget * samples, float(samples))


class TrainEmbeddings:
    """The samples of split=train of a store and what their embeddings are.

    Args:
        store: The store.
        folder: That `embed` wrote.

    Attributes:
        train: (N,) store indices of split=train.
        place: (n,) positions among them of the samples that have an embedding.
        index: (n,) store indices of those.
        ids: (N,) ids.
        card: What the embeddings depend on.
        points: What is clustered.

    Raises:
        DataError: When they are of another store, damaged, or none is of split=train.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.train = store.split("train").all()
        card = embeddings_card(folder, store)
        self.ids = pa.array([store.ids[i] for i in self.train], pa.string())
        parts = [read_ids(file).cast(pa.string()) for file in sorted(folder.glob(SHARDS))]
        known = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
        self.place = np.flatnonzero(pc.is_in(self.ids, value_set=known).to_numpy(False))
        self.index = self.train[self.place]
        if not len(self.index):
            raise DataError(f"{folder} has no embedding of any of the {len(self.train):,} samples of split=train of "
                            f"{store.path}; embed --split train or all.")
        self._embedded: Embedded = read_folder(folder, store, self.index)
        self.points = Directions(self._embedded)
        self.card = {"embeddings": digest(json.dumps(card, sort_keys=True).encode()),
                     "samples": digest(self.index.tobytes())}

    def estimate(self, levels: Sequence[int]) -> tuple[float, int]:
        """Seconds and bytes of memory that clustering would take, from one file and a search of a thousand samples."""
        began = time.perf_counter()
        read, place = self._embedded.parts[0]
        values = unit_rows(read())
        reading = (time.perf_counter() - began) / max(int((place >= 0).sum()), 1)
        few, width = values[:1024], values.shape[1]
        rng = np.random.default_rng(0)
        search = Search(rng.normal(size=(min(levels[0], len(self.index)), width)).astype(np.float32))
        began = time.perf_counter()
        search(few)
        product = (time.perf_counter() - began) / len(few) / levels[0]
        n, k, every = len(self.index), levels[0], PASSES + RESAMPLINGS + 1
        again = min(SAMPLE * k, n)
        products = n * k * every + again * k * PASSES * (RESAMPLINGS + 1)
        memory = 4 * width * (4 * len(values) + 3 * again + 2 * k) + (200 + 16) * n
        return n * reading * (every + RESAMPLINGS + 1) + product * products, memory


def embeddings_card(folder: Path, store: Store) -> dict[str, Any]:
    """The card of a folder of embeddings of the store.

    Raises:
        DataError: When it holds none, or those of another store.
    """
    if not any(folder.glob(SHARDS)):
        raise DataError(f"--embeddings {folder} holds no embeddings; make them with `sciencessl embed RUN --data "
                        f"{store.path} --out {folder}`.")
    path = folder / "embeddings.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        own = card.get("store", "")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is missing or damaged, so that nothing says whose embeddings these are; embed "
                        f"{store.path} again.") from error
    if own != store.digest:
        whose = f"the store with digest {own}" if own else "files that were read under a plan"
        raise DataError(f"{folder} holds embeddings of {whose}, and {store.path} has digest {store.digest}; embed this "
                        "store.")
    shard = min(folder.glob(SHARDS))
    read_ids(shard)  # tells of a damaged one
    names = pq.read_schema(shard).names
    if EMBEDDING not in names:
        raise DataError(f"{folder} has columns {', '.join(names)} and no {EMBEDDING!r}; give what `sciencessl embed` "
                        "wrote for one run.")
    return card


def _columns(names: Sequence[str], weights: Float64, found: Hierarchy, place: np.ndarray) -> dict[str, pa.Array]:
    columns = {names[0]: pa.array(weights)}
    missing = np.ones(len(weights), bool)
    missing[place] = False
    for level, name in enumerate(names[1:]):
        clusters = np.zeros(len(weights), np.int32)
        clusters[place] = found.of_points(level)
        columns[name] = pa.array(clusters, mask=missing)
    return columns


def _reports(found: Hierarchy, weights: Float64) -> tuple[LevelReport, ...]:
    reports = []
    for level, sizes in enumerate(cluster_sizes(found.labels)):
        after = np.bincount(found.of_points(level), weights, minlength=len(sizes))
        reports.append(LevelReport(
            len(sizes), int(sizes.min()), float(np.median(sizes)), int(sizes.max()), effective_number(sizes),
            effective_number(after), gini(sizes), gini(after),
        ))
    return tuple(reports)


def curation_text(found: Curation) -> str:
    """What was done, for people."""
    lines = [f"{found.samples:,} samples of split=train"]
    if found.without:
        lines.append(f"{found.without:,} of them have no embedding: they have no cluster, and weigh what they would if "
                     f"all were drawn evenly, {found.even:.3g}")
    if found.dry_run:
        levels = ", ".join(f"{k:,}" for k in found.asked)
        lines.append(f"would cluster them into {levels}: about {found.seconds:,.0f} s and "
                     f"{found.memory_bytes / 2**20:,.0f} MiB; nothing was written")
        return "\n".join(lines)
    for level, (own, asked) in enumerate(zip(found.levels, found.asked, strict=True)):
        lines.append(
            f"level {level + 1}: {own.clusters:,} clusters of {own.smallest:,} to {own.largest:,} samples, half of "
            f"them to {own.median:,.0f}; as diverse as {own.effective_before:,.1f} equal ones before, "
            f"{own.effective_after:,.1f} after (Gini {own.gini_before:.2f}, {own.gini_after:.2f})"
        )
        if own.clusters < asked:
            lines[-1] += f"; {asked:,} were asked for"
    if found.budget >= found.samples:
        lines.append("the budget covers every sample, so all weigh the same: nothing is balanced; give a smaller one")
    lines.append(f"in an epoch the most frequent sample comes {found.most:.2f} times, the least frequent "
                 f"{found.rarest:.2g} times")
    lines.append(f"table {found.name!r} of {found.store}: {', '.join(found.columns)}; digest {found.digest}")
    lines.append(f"{found.seconds:.1f} s; look at the largest and smallest clusters: "
                 f"{', '.join(map(str, found.sheets))}")
    lines.append(f"train with: sciencessl pretrain --data {found.store} --sampling.weights {found.columns[0]} ...")
    return "\n".join(lines)
