"""Synthetic slides on disk, drawn once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def slides_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good slides of three patients, 192 um wide, and the broken ones; do not change it."""
    pytest.importorskip("tifffile")
    from sciencessl.domains.pathology.synthetic_slides import synthetic_slides

    return synthetic_slides(tmp_path_factory.mktemp("slides"), np.random.default_rng(5), 6, side_um=192.0)
