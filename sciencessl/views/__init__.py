"""Augmentation views of decoded samples, and the step from stored values to model input."""

from __future__ import annotations

import os

# Importing albumentations otherwise asks a package index whether there is a newer release, once a worker.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
