"""A user's own method in one file: the example of the docs passes the kit, trains, is estimated and told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sciencessl import registry
from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.byol import Byol
from sciencessl.testing import check_method
from sciencessl.testing.method_case import tiny_encoder
from sciencessl.train.folder import read_metrics

METHOD = f"{Path(__file__).parents[2] / 'docs' / 'explanation' / 'own_method.py'}:SpreadByol"


def test_the_example_passes_the_kit() -> None:
    assert "ranks" in check_method(METHOD, registry.load_method(METHOD).Options(hidden=12, out=5))


def test_the_example_adds_the_hinge_and_nothing_else() -> None:
    """Standard deviations 0.5 and 2 (with one view's rows twice): hinges 0.5 and 0, their mean 0.25, for each row."""
    kind: Any = registry.load_method(METHOD)
    rows = torch.tensor([[1.0, 4.0], [-1.0, -4.0], [1.0, -4.0], [-1.0, 4.0]]) * (3 / 4) ** 0.5 / 2
    online, targets = Online([rows] * 2, [rows] * 2, [rows] * 2), [rows, rows]
    options = kind.Options(hidden=4, out=2, spread=3.0)
    method = kind(tiny_encoder(), options, torch.Generator().manual_seed(0))
    byol = Byol(tiny_encoder(), options, torch.Generator().manual_seed(0))
    found, plain = method.pair_loss(online, targets), byol.pair_loss(online, targets)
    torch.testing.assert_close(found.total - plain.total, torch.tensor(4 * 3 * 0.25), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.logged["hinge"], torch.tensor(4 * 0.25), rtol=1e-3, atol=0)
    assert torch.equal(found.scale, plain.scale)
    with pytest.raises(ConfigError, match=r"options.spread is -1; it must be 0 or more"):
        kind.Options(spread=-1)


def test_a_method_of_a_file_trains_and_is_estimated(tmp_path: Path, tiny_run: Any) -> None:
    assert tiny_run(tmp_path / "whole", method=METHOD, steps=4).finished
    assert read_metrics(tmp_path / "whole")[-1]["hinge"] > 0
    assert tiny_run(tmp_path / "dry", method=METHOD, steps=4, dry_run=True, processes=2).memory
    entry = registry.method_entry(METHOD)
    assert (entry.name, entry.status, entry.cost, entry.origin) == (METHOD, "ours", 1.0, "a file")
