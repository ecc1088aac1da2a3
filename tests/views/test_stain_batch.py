"""The batched stain jitter is the view, tile by tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciencessl.errors import DataError
from sciencessl.views.stain import StainJitter
from sciencessl.views.stain_batch import draw_stain_jitter, stain_jitter


def tiles(count: int = 6, side: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def drawn(count: int = 6, strength: float = 0.2, p: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return draw_stain_jitter(count, strength, torch.Generator().manual_seed(seed), p)


def by_view(images: torch.Tensor, factors: torch.Tensor, shifts: torch.Tensor) -> np.ndarray:
    done = [StainJitter().apply(np.ascontiguousarray(tile.numpy().transpose(1, 2, 0)), factors=f, shifts=s)
            for tile, f, s in zip(images, factors.tolist(), shifts.tolist(), strict=True)]
    return np.stack(done).transpose(0, 3, 1, 2)


def test_it_is_the_view_of_each_tile() -> None:
    images, (factors, shifts) = tiles(), drawn()
    got = stain_jitter(images, factors, shifts)
    assert got.dtype == torch.uint8
    difference = np.abs(got.numpy().astype(int) - by_view(images, factors, shifts))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 0.51), (torch.float64, 0.51), (torch.float16, 0.7)])
def test_floats_are_fractions_of_255(dtype: torch.dtype, levels: float) -> None:
    images, (factors, shifts) = tiles(), drawn()
    got = stain_jitter((images.double() / 255).to(dtype), factors, shifts)
    assert got.dtype == dtype
    assert np.abs(got.double().numpy() * 255 - by_view(images, factors, shifts)).max() < levels


def test_half_precision_around_it_does_not_matter() -> None:
    images, (factors, shifts) = tiles(), drawn()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = stain_jitter(images, factors, shifts)
    assert torch.equal(inside, stain_jitter(images, factors, shifts))


def test_without_change_every_value_comes_back_and_glass_stays_white() -> None:
    images = tiles()
    assert torch.equal(stain_jitter(images, torch.ones(6, 3), torch.zeros(6, 3)), images)
    white = torch.full((6, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(stain_jitter(white, *drawn()), white)
    assert stain_jitter(torch.ones(6, 3, 8, 8), *drawn()).min() == 1


def test_a_tile_does_not_depend_on_its_neighbours() -> None:
    images, (factors, shifts) = tiles(), drawn()
    alone = stain_jitter(images[2:3], factors[2:3], shifts[2:3])
    assert torch.equal(alone[0], stain_jitter(images, factors, shifts)[2])


def test_draws_are_uniform_for_each_stain_and_spare_some_tiles() -> None:
    factors, shifts = drawn(8000, 0.2, 0.5)
    changed = (factors != 1).all(dim=1)
    assert torch.equal(changed, (shifts != 0).all(dim=1))
    assert abs(changed.float().mean() - 0.5) < 4 * 0.5 / 8000**0.5
    values = torch.cat([factors - 1, shifts], dim=1)[changed].double()
    assert values.abs().max() <= 0.2 + 1e-6
    assert (values.std(dim=0) / (0.4 / 12**0.5) - 1).abs().max() < 0.04
    assert (torch.corrcoef(values.T) - torch.eye(6)).abs().max() < 0.08
    assert torch.equal(drawn(3, seed=5)[0], drawn(3, seed=5)[0])


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 4, 8, 8), torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.int64)]
)
def test_what_is_no_batch_of_tiles_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"expected \(B, 3, H, W\) RGB of uint8 or floats"):
        stain_jitter(images, torch.ones(2, 3), torch.zeros(2, 3))


def test_every_tile_needs_its_own_numbers() -> None:
    with pytest.raises(DataError, match=r"expected \(6, 3\) factors and shifts, got \(1, 3\) and \(6, 3\)"):
        stain_jitter(tiles(), torch.ones(1, 3), torch.zeros(6, 3))
