"""Few-label tasks of galaxy surveys."""

from __future__ import annotations

from sciencessl.spec import TransferTask

SPIRALS = {"spiral-clockwise": "spiral", "spiral-anticlockwise": "spiral", "spiral": "spiral"}

MORPHOLOGY = TransferTask(
    name="morphology",
    column="class",
    classes={"elliptical": "elliptical", "edge-on": "edge-on", **SPIRALS},
    budgets=("50", "250", "750", "all"),
    description="elliptical, spiral or edge-on (Galaxy Zoo 1 classes; merger and dont-know are left out)",
)

SPIRAL_EDGE_ON = TransferTask(
    name="spiral-edge-on",
    column="class",
    classes={"edge-on": "edge-on", **SPIRALS},
    budgets=("20", "50", "100", "250", "all"),
    description="spiral against edge-on, among featured galaxies",
)

TASKS = (MORPHOLOGY, SPIRAL_EDGE_ON)
