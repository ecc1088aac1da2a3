"""Uncurated web images: photos of any size, with class folders where there are labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.data_prep.crawl.settings import CrawlSettings
from sciencessl.domains.web.tasks import TASKS
from sciencessl.domains.web.views import FIELD, WebViews, web_views
from sciencessl.spec import ColumnSpec, DomainSpec, FieldSpec
from sciencessl.views.display import display_rgb


@dataclass(frozen=True)
class WebPrepare(CrawlSettings):
    """Settings of crawls; of them, loose photos of the source `images` take limits of decoding alone."""


def _synthetic(folder: Path, rng: np.random.Generator, n: int) -> Path:
    from sciencessl.domains.web.synthetic import synthetic_photos

    return synthetic_photos(folder, rng, n)


SPEC = DomainSpec(
    name="web",
    title="uncurated web images: photos of any size",
    fields={FIELD: FieldSpec("bytes", ("r", "g", "b"))},
    columns=(ColumnSpec("class", "str", "label", description="class folder, where there is one"),),
    views=web_views,
    display=display_rgb(FIELD),
    synthetic=_synthetic,
    sources={
        "auto": "sciencessl.data_prep.crawl.source:images_or_crawl",
        "images": "sciencessl.data_prep.ingest:images", "crawl": "sciencessl.data_prep.crawl.source:crawl",
    },
    train_options=WebViews,
    prepare_options=WebPrepare,
    tasks=TASKS,
)
"""What the engine knows of web photos."""
