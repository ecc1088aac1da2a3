"""What every test may ask for: the shared real data, and one thread for each process that computes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read by torch and BLAS when they load, so that tests which need neither pay nothing. One thread gives sums the same
# order on every machine, and processes that tests start do not crowd two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks whoever asks for the real data, so that `-m 'not real_data'` finds all of them."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data: $SCIENCESSL_DATA, or shared/data beside the repository. Skips where it is absent."""
    folder = Path(os.environ.get("SCIENCESSL_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SCIENCESSL_DATA to the folder that holds it")
    return folder
