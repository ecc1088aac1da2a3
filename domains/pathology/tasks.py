"""Few-label tasks of tissue tiles."""

from __future__ import annotations

from sciencessl.spec import TransferTask

TISSUE = TransferTask(
    name="tissue",
    column="class",
    unit="group",
    budgets=("5/class", "20/class", "100/class", "all"),
    description="tissue class of a tile; patients (or the declared group) are drawn and resampled, never tiles",
)

TASKS = (TISSUE,)
