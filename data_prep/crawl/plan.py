"""What a crawl of any size takes, from rates that were measured on a small one: storage, cores, GPUs, days.

Formulas: `docs/explanation/billion.md` explains each. All are ours but the cost of views, which follows from counting
forward and backward passes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sciencessl.errors import ConfigError

HOUR = 3600.0
ROW_SAMPLES, HALF_ROW_BYTES = 8192, 128 * 2**20
"""A row of a store: at most so many samples, and half full when planned."""


@dataclass(frozen=True)
class CrawlRates:
    """What was measured, a core or a GPU each, and what is planned.

    Attributes:
        images: N.
        source_bytes: Bytes of one image as crawled.
        stored_bytes: Bytes of one image as stored.
        column_bytes: Bytes of its row columns.
        listed_per_s: Images that a core lists a second.
        prepared_per_s: Images that a core decodes, resizes, encodes and hashes a second.
        embedded_per_s: Images that a GPU embeds a second.
        dimensions: d of an embedding, stored with 2 bytes each.
        clusters: k of the lowest level of curation.
        iterations: Passes of k-means over all images.
        gpu_flops: Operations that a GPU does a second in k-means.
        trained_per_s: Images that a GPU trains on a second with labels, one view of 224 px each: 3 forward passes.
        view_cost: Forward passes at 224 px that one image costs; BYOL's two views 8, see `view_cost`.
        gpus: GPUs of the run.
        batch: Images of a step.
        loaded_per_s: Images that a core reads, decodes and augments a second.
        cores: Cores that prepare.

    Raises:
        ConfigError: For a number that is not above 0.
    """

    images: float
    source_bytes: float
    stored_bytes: float
    column_bytes: float
    listed_per_s: float
    prepared_per_s: float
    embedded_per_s: float
    dimensions: float
    clusters: float
    iterations: float
    gpu_flops: float
    trained_per_s: float
    view_cost: float
    gpus: float
    batch: float
    loaded_per_s: float
    cores: float

    def __post_init__(self) -> None:
        for entry in fields(self):
            if not getattr(self, entry.name) > 0:
                raise ConfigError(f"{entry.name} is {getattr(self, entry.name)}; a plan needs a number above 0.")


@dataclass(frozen=True)
class CrawlPlan:
    """What it takes.

    Attributes:
        crawl_tb: TB of the crawl as it was downloaded.
        store_tb: TB of the store, columns included.
        embeddings_tb: TB of embeddings.
        rows: Rows of the store, one file of payloads each.
        list_core_hours: To list the tars.
        prepare_core_hours: To decode, resize, encode and hash.
        prepare_days: The same, on `cores`.
        embed_gpu_hours: To embed all images.
        curate_gpu_hours: K-means of the lowest level.
        steps: Optimiser steps of one pass.
        train_gpu_hours: One pass.
        train_days: The same, on `gpus`.
        loader_cores_per_gpu: Cores that keep one GPU busy.
        read_gb_per_s: What all GPUs together read, in GB/s.
    """

    crawl_tb: float
    store_tb: float
    embeddings_tb: float
    rows: float
    list_core_hours: float
    prepare_core_hours: float
    prepare_days: float
    embed_gpu_hours: float
    curate_gpu_hours: float
    steps: float
    train_gpu_hours: float
    train_days: float
    loader_cores_per_gpu: float
    read_gb_per_s: float


def view_cost(large_px: int, small_px: int = 0, small_views: int = 0, target: bool = True) -> float:
    """Forward passes at 224 px that one image costs in a step of two large views.

    A forward pass costs in proportion to area, a backward pass twice as much. The online network does both for all
    views; the target network (BYOL) a forward pass for the two large ones. Ours, by counting.

    Args:
        large_px: Side of the two large views.
        small_px: Side of small views.
        small_views: How many.
        target: Whether there is a target network.
    """
    large, small = (large_px / 224) ** 2, (small_px / 224) ** 2
    return 3 * (2 * large + small_views * small) + (2 * large if target else 0)


def plan_crawl(rates: CrawlRates) -> CrawlPlan:
    """Storage, core-hours and GPU-hours of a crawl."""
    n, r = rates.images, rates
    prepare = n / r.prepared_per_s / HOUR
    seen_per_s = r.trained_per_s * 3 / r.view_cost
    train = n / seen_per_s / HOUR
    return CrawlPlan(
        crawl_tb=n * r.source_bytes / 1e12,
        store_tb=n * (r.stored_bytes + r.column_bytes) / 1e12,
        embeddings_tb=n * r.dimensions * 2 / 1e12,
        rows=max(n / ROW_SAMPLES, n * r.stored_bytes / HALF_ROW_BYTES),
        list_core_hours=n / r.listed_per_s / HOUR,
        prepare_core_hours=prepare,
        prepare_days=prepare / r.cores / 24,
        embed_gpu_hours=n / r.embedded_per_s / HOUR,
        curate_gpu_hours=2 * n * r.clusters * r.dimensions * r.iterations / r.gpu_flops / HOUR,
        steps=n / r.batch,
        train_gpu_hours=train,
        train_days=train / r.gpus / 24,
        loader_cores_per_gpu=seen_per_s / r.loaded_per_s,
        read_gb_per_s=r.gpus * seen_per_s * r.stored_bytes / 1e9,
    )
