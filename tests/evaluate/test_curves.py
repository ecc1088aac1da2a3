"""How the runs of a method are named together."""

from __future__ import annotations

import pytest

from sciencessl.evaluate.curves import _common_name


@pytest.mark.parametrize(("names", "common"), [
    (["byol-1", "byol-2", "byol-seed3"], "byol"),
    (["byol_s1", "byol_s2"], "byol"),
    (["byol1", "byol2"], "byol"),
    (["branches-1", "branches-2"], "branches"),  # an s that ends a word is no seed
    (["seed1", "seed2"], "seed1"),
    (["1", "2"], "1"),
    (["byol-1", "hybrid-2"], "byol-1"),
    (["byol-1"], "byol-1"),
])
def test_runs_share_a_name_without_their_seeds(names: list[str], common: str) -> None:
    assert _common_name(names) == common
