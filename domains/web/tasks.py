"""Few-label tasks of web photos."""

from __future__ import annotations

from sciencessl.spec import TransferTask

CLASSES = TransferTask(
    name="classes",
    column="class",
    budgets=("5/class", "20/class", "50/class", "all"),
    description="the class folder that a photo came from",
)

TASKS = (CLASSES,)
