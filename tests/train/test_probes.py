"""Online probes in a run: the encoder is the one of a run without them, and a stopped run goes on with the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciencessl.errors import ConfigError
from sciencessl.evaluate.export_words import card_sentences
from sciencessl.monitor.probes import Probes
from sciencessl.train.checkpoint import checkpoints
from sciencessl.train.folder import WEIGHTS, read_metrics, read_model
from sciencessl.train.module import Pretraining
from sciencessl.train.ranks import Ranks
from tests.monitor.test_probes import FEATURES, ROWS, make_batch, make_data, stream

NAMES = [f"probe_{probe}_{name}" for probe in ("knn", "linear") for name in ("arms", "class", "night+test")]


@pytest.fixture(scope="module")
def probed(tiny_run: Any, make_store: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `finished`, with probes of each kind."""
    out = tmp_path_factory.mktemp("probed") / "run"
    assert tiny_run(out, probes=PROBES).finished
    return out


