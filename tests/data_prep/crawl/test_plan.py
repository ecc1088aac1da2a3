"""The plan of a large crawl: each number from one formula, against values computed by hand."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from sciencessl.data_prep.crawl.indexing import CrawlIds
from sciencessl.data_prep.crawl.plan import CrawlRates, plan_crawl, view_cost
from sciencessl.data_prep.crawl.record import Part, Place
from sciencessl.data_prep.plan import make_plan
from sciencessl.data_prep.source import Input, Source
from sciencessl.errors import ConfigError
from sciencessl.spec import FieldSpec

BILLION = CrawlRates(
    images=1e9, source_bytes=114e3, stored_bytes=31.3e3, column_bytes=200, listed_per_s=100_000, prepared_per_s=250,
    embedded_per_s=2_000, dimensions=512, clusters=1e5, iterations=50, gpu_flops=50e12, trained_per_s=264.4,
    view_cost=8, gpus=64, batch=4096, loaded_per_s=500, cores=512,
)


def test_storage_and_hours_of_a_billion_images() -> None:
    plan = plan_crawl(BILLION)
    assert plan.crawl_tb == pytest.approx(114)
    assert plan.store_tb == pytest.approx(31.5)
    assert plan.embeddings_tb == pytest.approx(1.024)
    assert plan.rows == pytest.approx(1e9 * 31.3e3 / 134_217_728)
    assert plan.list_core_hours == pytest.approx(2.7778, rel=1e-4)
    assert plan.prepare_core_hours == pytest.approx(1111.11, rel=1e-4)
    assert plan.prepare_days == pytest.approx(1111.11 / 512 / 24, rel=1e-4)
    assert plan.embed_gpu_hours == pytest.approx(138.89, rel=1e-4)
    # 2 N k d I = 5.12e18 operations.
    assert plan.curate_gpu_hours == pytest.approx(28.444, rel=1e-4)
    assert plan.steps == pytest.approx(244_140.6, rel=1e-5)
    # 264.4 labelled images a second are 99.15 of BYOL's, whose two views cost 8 forward passes instead of 3.
    assert plan.train_gpu_hours == pytest.approx(2801.6, rel=1e-4)
    assert plan.train_days == pytest.approx(1.824, rel=1e-3)
    assert plan.loader_cores_per_gpu == pytest.approx(0.1983, rel=1e-3)
    assert plan.read_gb_per_s == pytest.approx(64 * 99.15 * 31.3e3 / 1e9, rel=1e-4)


def test_small_images_make_rows_by_count() -> None:
    assert plan_crawl(replace(BILLION, stored_bytes=900)).rows == pytest.approx(122_070.3)


def test_views_cost_forward_passes_by_area() -> None:
    assert view_cost(224) == pytest.approx(8)
    assert view_cost(160) == pytest.approx(8 * (160 / 224) ** 2)
    # SwAV's two of 224 px and four of 96 px, without a target network.
    assert view_cost(224, 96, 4, target=False) == pytest.approx(8.204, rel=1e-3)
    assert view_cost(160, 96, 4, target=False) == pytest.approx(5.265, rel=1e-3)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_rate_of_nothing_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"prepared_per_s is \S+; a plan needs a number above 0"):
        replace(BILLION, prepared_per_s=value)


@pytest.mark.parametrize("parts", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_the_plan_of_a_crawl_takes_memory_by_parts_and_not_by_images(parts: int) -> None:
    tracemalloc.start()
    place = Place("0.tar", "/crawl/0.tar", "tar", 10**9, 1)
    inputs = []
    for number in range(parts):
        part = Part(place, "list.parquet", number * 1000, number * 1000 + 1000)
        inputs.append(Input(f"0.tar#{number}", "0.tar", 10**9, 1, "train", {"images": number}, part, 1000, 31_300_000,
                            CrawlIds(part)))
    source = Source("crawl", {"image": FieldSpec("bytes", ("r", "g", "b"))}, inputs, {}, lambda task: iter(()),
                    lambda entry: "")
    plan = make_plan("web", source)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.samples == parts * 1000
    assert max(sum(entry.samples for entry in task.inputs) for task in plan.tasks) <= 8192
    assert used / parts < 2000  # bytes: two gigabytes for a billion images
