"""`cost.json`: what a run used, so that comparisons can say what was matched."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sciencessl.store.files import write_atomic
from sciencessl.train.folder import COST


def begin_cost(
    run: Path, operations_per_image: float, epoch_samples: int, sampling: Sequence[str], supervised: float = 0.0
) -> None:
    """Write the file of a run that has used nothing yet.

    Args:
        run: Run folder.
        operations_per_image: Floating-point operations of one source image.
        epoch_samples: Samples of an epoch.
        sampling: What an epoch is, and what else there is to say of it, in words.
        supervised: Images/s of the encoder alone, forward and backward; 0 where that was not measured.
    """
    cost: dict[str, Any] = {
        "operations_per_image": operations_per_image, "wall_seconds": 0.0, "tuning_trials": 0,
        "epoch_samples": epoch_samples, "sampling": list(sampling),
    }
    if supervised:
        cost["supervised_images_per_s"] = supervised
    write_atomic(run / COST, json.dumps(cost, indent=1).encode())


def supervised_rate(run: Path) -> float:
    """Images/s of the encoder alone, as measured when the run began; 0 where that is not known."""
    return float(json.loads((run / COST).read_text(encoding="utf-8")).get("supervised_images_per_s", 0.0))


def add_cost(run: Path, device: torch.device, images: int, steps: int, seconds: float, devices: int = 1) -> None:
    """Bring the file up to date.

    Args:
        run: Run folder.
        device: Where it was trained.
        images: Source images seen in all.
        steps: Steps taken in all.
        seconds: Wall time since the last call, or since the start.
        devices: Processes that it was trained by, each with a device.
    """
    path = run / COST
    cost = json.loads(path.read_text(encoding="utf-8"))
    cost |= {
        "images_seen": images,
        "steps": steps,
        "epochs": round(images / cost["epoch_samples"], 3),
        "device": device.type,
        "wall_seconds": round(cost["wall_seconds"] + seconds, 1),
        "estimated_operations": cost["operations_per_image"] * images,
        "peak_memory_bytes": max(cost.get("peak_memory_bytes", 0), _peak_memory(device)),
    }
    cost["device_hours"] = round(cost.get("device_hours", 0.0) + seconds * devices / 3600, 5)
    write_atomic(path, json.dumps(cost, indent=1).encode())


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
