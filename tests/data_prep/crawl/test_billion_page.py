"""The page on a billion images: its tables follow from its rates."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sciencessl.data_prep.crawl.plan import CrawlPlan, CrawlRates, plan_crawl

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "billion.md"


def cells(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


@pytest.fixture(scope="module")
def rates() -> CrawlRates:
    known = {row[0]: float(row[1]) for row in cells(PAGE.read_text()) if row[0] in CrawlRates.__dataclass_fields__}
    return CrawlRates(**known)


def test_what_follows_is_what_the_function_computes(rates: CrawlRates) -> None:
    plan = plan_crawl(rates)
    told = {row[0]: row[1] for row in cells(PAGE.read_text()) if row[0] in CrawlPlan.__dataclass_fields__}
    assert list(told) == [entry.name for entry in fields(CrawlPlan)]
    for name, text in told.items():
        assert float(text.replace(",", "")) == pytest.approx(getattr(plan, name), rel=0.01), name


def test_each_architecture_has_the_hours_of_its_rate(rates: CrawlRates) -> None:
    rows = [row for row in cells(PAGE.read_text()) if re.match(r"RegNetY-\d+GF$", row[0])]
    assert len(rows) >= 4
    for name, trained, seen, hours in rows:
        plan = plan_crawl(replace(rates, trained_per_s=float(trained)))
        assert float(seen) == pytest.approx(float(trained) * 3 / rates.view_cost, rel=0.01), name
        assert float(hours.replace(",", "")) == pytest.approx(plan.train_gpu_hours, rel=0.01), name
