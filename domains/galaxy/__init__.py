"""Galaxy surveys: stamps with volunteer votes or classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.domains.galaxy.schema import load_schema as load_schema  # found here by name, for --schema FILE
from sciencessl.domains.galaxy.sources import GalaxyPrepare, add_simulated_votes
from sciencessl.domains.galaxy.tasks import TASKS
from sciencessl.domains.galaxy.views import FIELD, GalaxyViews, galaxy_views
from sciencessl.spec import ColumnSpec, DomainSpec, FieldSpec
from sciencessl.views.display import display_rgb


def _synthetic(folder: Path, rng: np.random.Generator, n: int) -> Path:
    from sciencessl.domains.galaxy.synthetic import synthetic_survey

    return synthetic_survey(folder, rng, n) / "stamps"


SPEC = DomainSpec(
    name="galaxy",
    title="galaxy surveys: stamps with volunteer votes or classes",
    fields={FIELD: FieldSpec("bytes", ("r", "g", "b"), scale_unit="arcsec/px")},
    columns=(
        ColumnSpec("ra", "float64", "position", "deg", "right ascension, ICRS"),
        ColumnSpec("dec", "float64", "position", "deg", "declination, ICRS"),
        ColumnSpec("class", "str", "label", description="morphological class"),
    ),
    labels=dict(SCHEMAS),
    views=galaxy_views,
    display=display_rgb(FIELD, rows_up=True),
    synthetic=_synthetic,
    sources={
        "auto": "sciencessl.data_prep.survey:images_or_survey", "images": "sciencessl.data_prep.ingest:images",
        "survey": "sciencessl.data_prep.survey:survey",
    },
    train_options=GalaxyViews,
    prepare_options=GalaxyPrepare,
    after_prepare=add_simulated_votes,
    tasks=TASKS,
    places="sciencessl.domains.galaxy.places:near_on_sky",
)
"""What the engine knows of galaxy surveys."""
