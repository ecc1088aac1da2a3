"""What a finished run exports: the encoder that its method names, or with labels the one that learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sciencessl.train.checkpoint import checkpoints
from sciencessl.train.folder import WEIGHTS, read_model
from tests.train.stored import stored

SMALL = {"method": "dino", "options__prototypes": 12, "options__tau_base": 0.5, "steps": 3}


@pytest.mark.parametrize(("labels", "module"), [([], "target_encoder"), (["class"], "encoder")])
def test_dino_exports_its_teacher_and_with_labels_its_student(
    tmp_path: Path, tiny_run: Any, labels: list[str], module: str
) -> None:
    run = tmp_path / "run"
    assert tiny_run(run, **SMALL, labels=labels).finished
    assert read_model(run).module == module
    trained, found = stored(checkpoints(run)[-1]), load_file(run / WEIGHTS)
    assert all(torch.equal(value, trained[f"method.{module}.{name}"]) for name, value in found.items())
    pair = [trained[f"method.{name}.layer1.0.conv1.weight"] for name in ("encoder", "target_encoder")]
    assert not torch.equal(*pair)
