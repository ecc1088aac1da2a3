"""Presets as data: scale, method and recipe layers of settings. They name no Python classes."""
