"""Pathology: tissue tiles with a class, grouped by patient or source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.data_prep.slides.settings import SlideSettings
from sciencessl.domains.pathology.tasks import TASKS
from sciencessl.domains.pathology.views import FIELD, PathologyViews, pathology_views
from sciencessl.spec import ColumnSpec, DomainSpec, FieldSpec
from sciencessl.views.display import display_rgb


@dataclass(frozen=True)
class PathologyPrepare(SlideSettings):
    """Settings of slides; image tiles need none beyond those of every source."""


def _synthetic(folder: Path, rng: np.random.Generator, n: int) -> Path:
    from sciencessl.domains.pathology.synthetic import synthetic_tiles

    return synthetic_tiles(folder, rng, n)


def _report(store: Path, options: PathologyPrepare) -> None:
    """The quality report of slides, beside a store that was cut from some."""
    from sciencessl.data_prep.slides.report import write_slide_report

    write_slide_report(store)


SPEC = DomainSpec(
    name="pathology",
    title="pathology: tissue tiles with a class, grouped by patient or source",
    fields={FIELD: FieldSpec("bytes", ("r", "g", "b"), scale_unit="um/px")},
    columns=(
        ColumnSpec("patient", "str", "group", description="whom the tissue is from; never straddles splits"),
        ColumnSpec("mpp", "float64", "quality", "um/px", "pixel scale of the tile; in a manifest, of the slide"),
        ColumnSpec("slide", "str", description="the slide that a tile is from"),
        ColumnSpec("site", "str", description="where slides were made; stains differ between sites"),
        ColumnSpec("class", "str", "label", description="tissue class"),
    ),
    group="patient",
    identity=("patient",),
    views=pathology_views,
    display=display_rgb(FIELD),
    synthetic=_synthetic,
    sources={
        "auto": "sciencessl.data_prep.slides.source:images_or_slides",
        "images": "sciencessl.data_prep.ingest:images", "slides": "sciencessl.data_prep.slides.source:slides",
    },
    train_options=PathologyViews,
    prepare_options=PathologyPrepare,
    after_prepare=_report,
    tasks=TASKS,
)
"""What the engine knows of tissue tiles."""
