"""Few-label tasks of galaxy surveys."""

from __future__ import annotations

from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.spec import TransferTask
from sciencessl.transfer_task import NO_MAJORITY

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

RING, NO_RING = SCHEMAS["rings"].question("ring").columns

RINGS = TransferTask(
    name="rings",
    columns=(RING, NO_RING),
    classes={RING: "ring", NO_RING: "no ring", NO_MAJORITY: "no ring"},
    budgets=("50", "250", "750", "all"),
    description="ring against no ring: a ring has more than half of 10 votes or more (schema rings)",
)
"""The fraction is that of Walmsley et al. 2022 (arXiv:2206.11927), the least number of votes ours."""

TASKS = (MORPHOLOGY, SPIRAL_EDGE_ON, RINGS)
