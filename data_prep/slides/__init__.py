"""Whole slides: readers, resolution, the grid of tiles, and the source that turns them into samples."""
