"""Masks of CNN-JEPA: counts, sizes and shares of the card, and every cell reached."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciencessl.methods.block_masks import LEAST_CONTEXT, block_masks, mixed_masks, scattered_masks

PAPER = (7, 7)


def sizes(masks: Tensor) -> Tensor:
    return masks.sum(dim=(1, 2, 3))


@pytest.mark.parametrize(("grid", "ratio", "targets"), [(PAPER, 0.6, 29), ((4, 4), 0.6, 10), ((3, 3), 0.6, 5),
                                                        ((3, 3), 0.999, 8), ((3, 3), 0.001, 1)])  # fmt: skip
def test_scattered_cells_are_a_fixed_number(grid: tuple[int, int], ratio: float, targets: int) -> None:
    """Of 49 cells 20 are context and 29 targets, in each image; there is one of either at least."""
    masks = scattered_masks(64, grid, ratio)
    assert masks.shape == (64, 1, *grid)
    assert masks.dtype == torch.bool
    assert (sizes(masks) == targets).all()


def test_each_cell_is_a_target_as_often() -> None:
    torch.manual_seed(0)
    count = 4000
    share = scattered_masks(count, PAPER).double().mean(dim=0)
    spread = math.sqrt(29 / 49 * 20 / 49 / count)
    assert float((share - 29 / 49).abs().max()) < 4.5 * spread


def side_lengths() -> set[tuple[int, int]]:
    """By the rule of the card, in plain Python."""
    return {
        (round(math.sqrt(int(area) * aspect)), round(math.sqrt(int(area) / aspect)))
        for area in (49 * 0.15, 8, 9, 49 * 0.2)
        for aspect in (0.75 + 0.75 * k / 1000 for k in range(1001))
    }


def test_blocks_of_the_papers_grid_have_the_sides_of_the_card() -> None:
    """2 x 3, 3 x 3, 3 x 2 and their like: six cells or more each."""
    assert side_lengths() == {(2, 3), (2, 4), (3, 2), (3, 3), (4, 2), (4, 3)} - {(2, 4)}
    torch.manual_seed(0)
    targets = sizes(torch.cat([block_masks(8, PAPER) for _ in range(60)]))
    assert int(targets.min()) >= 6
    assert int(targets.max()) <= 49 - LEAST_CONTEXT


def windows(mask: Tensor, height: int, width: int) -> Tensor:
    """Which cells lie in a window of that size which is masked throughout."""
    solid = mask.unfold(0, height, 1).unfold(1, width, 1).all(dim=-1).all(dim=-1)
    covered = torch.zeros_like(mask)
    for top, left in solid.nonzero().tolist():
        covered[top : top + height, left : left + width] = True
    return covered


def test_targets_are_whole_blocks_of_one_size_in_a_batch() -> None:
    torch.manual_seed(1)
    for _ in range(20):
        masks = block_masks(8, PAPER)[:, 0]
        fits = [all(torch.equal(windows(mask, h, w), mask) for mask in masks) for h, w in side_lengths()]
        assert any(fits)
        assert len({mask.numpy().tobytes() for mask in masks}) > 1  # places differ from image to image


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (3, 5), (6, 6), PAPER, (8, 14)])
def test_the_last_row_and_column_are_targets_as_often_as_the_first(grid: tuple[int, int]) -> None:
    # A defect elsewhere: tops drawn from [0, H - h) without its end, so that the last row is never a target.
    torch.manual_seed(0)
    share = torch.cat([block_masks(64, grid)[:, 0] for _ in range(40)]).double().mean(dim=0)
    for first, last in ((share[0], share[-1]), (share[:, 0], share[:, -1])):
        assert float(last.min()) > 0
        assert float(last.mean() / first.mean()) == pytest.approx(1.0, abs=0.15)
    assert float(share.min()) > 0.05


@pytest.mark.parametrize("grid", [(3, 3), (3, 4), (4, 4), (5, 5), (4, 20)])
def test_small_grids_keep_a_context_and_a_target(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for _ in range(50):
        masks = block_masks(64, grid)
        assert int(sizes(masks).min()) >= 1
        assert int(sizes(~masks).min()) >= LEAST_CONTEXT


@pytest.mark.parametrize(("blocks", "scattered"), [(1.0, 0), (0.0, 200), (0.75, 50)])
def test_three_batches_of_four_are_of_blocks(blocks: float, scattered: int) -> None:
    """A batch is all of one kind: of 200 batches of 32 images, those where each has 29 targets."""
    torch.manual_seed(0)
    kinds = [bool((sizes(mixed_masks(32, PAPER, blocks)) == 29).all()) for _ in range(200)]
    assert abs(sum(kinds) - scattered) <= (4 * math.sqrt(200 * 0.75 * 0.25) if 0 < blocks < 1 else 0)


def test_masks_are_a_function_of_the_global_generator_and_draw_a_fixed_count() -> None:
    states = []
    for seed in (0, 0, 3):
        torch.manual_seed(seed)
        states.append((mixed_masks(4, PAPER), torch.rand(1)))
    assert torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])
    assert not torch.equal(states[0][0], states[2][0])
    with torch.device("meta"):
        assert mixed_masks(4, PAPER, device=torch.device("meta")).shape == (4, 1, 7, 7)  # no value is asked for
