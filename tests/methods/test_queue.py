"""The queue: first in, first out, whatever the batch, and exactly what was saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sciencessl.errors import ConfigError
from sciencessl.methods.queue import Queue
from sciencessl.testing.method_ranks import on_ranks
from sciencessl.train.ranks import Ranks


def build(size: int = 5, seed: int = 0) -> Queue:
    return Queue(size, 2, torch.Generator().manual_seed(seed))


def numbered(*angles: float) -> Tensor:
    """Unit rows that can be told apart."""
    turn = torch.tensor(angles)
    return torch.stack([turn.cos(), turn.sin()], dim=1)


def test_it_starts_with_unit_rows_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    queue = build()
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(5))
    assert torch.equal(queue.rows, build().rows)
    assert not torch.equal(queue.rows, build(seed=1).rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(queue.state_dict()) == ["rows"]
    assert not queue.rows.requires_grad


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7])
def test_it_is_first_in_first_out_for_any_batch(batch: int) -> None:
    # A defect elsewhere: batches that do not divide the queue are refused, or overwrite its end in part.
    queue = build()
    seen = queue.rows.clone()
    for step in range(4):
        rows = numbered(*(0.1 * (step * batch + i) for i in range(batch)))
        queue.hold(rows)
        queue.advance()
        seen = torch.cat([seen, rows])
        torch.testing.assert_close(queue.rows, seen[-5:])


def test_micro_batches_enter_together_and_in_order_when_the_step_is_done() -> None:
    queue = build()
    before = queue.rows.clone()
    queue.hold(numbered(0.1, 0.2))
    queue.hold(numbered(0.3))
    assert torch.equal(queue.rows, before)
    queue.advance()
    torch.testing.assert_close(queue.rows, torch.cat([before[-2:], numbered(0.1, 0.2, 0.3)]))
    queue.advance()
    torch.testing.assert_close(queue.rows, torch.cat([before[-2:], numbered(0.1, 0.2, 0.3)]))


def test_a_surveyed_step_leaves_nothing() -> None:
    queue = build()
    before = queue.rows.clone()
    with torch.no_grad():
        queue.hold(numbered(0.1))
    queue.advance()
    assert torch.equal(queue.rows, before)


def test_rows_enter_with_length_one_in_single_precision_and_without_gradient() -> None:
    queue = build()
    rows = (3 * numbered(0.1, 0.2)).bfloat16().requires_grad_()
    queue.hold(rows)
    queue.advance()
    torch.testing.assert_close(queue.rows[-2:], normalize(rows.detach().float(), dim=1))
    assert queue.rows.dtype == torch.float32
    assert not queue.rows.requires_grad


def test_a_loaded_queue_goes_on_as_the_saved_one() -> None:
    whole = build()
    whole.hold(numbered(0.1, 0.2))
    whole.advance()
    resumed = build(seed=3)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for queue in (whole, resumed):
        queue.hold(numbered(0.3))
        queue.advance()
    assert torch.equal(whole.rows, resumed.rows)


def test_a_queue_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="its size is 0; it must be 1 or more"):
        build(size=0)


def test_every_process_has_the_queue_of_one_and_a_survey_says_nothing() -> None:
    rows = numbered(0.1, 0.2, 0.3, 0.4)
    whole = build()
    whole.hold(rows)
    whole.advance()

    def advanced(ranks: Ranks) -> Tensor:
        queue = build()
        if ranks.first:  # a call to the other process would wait for it
            with torch.no_grad():
                queue.hold(rows, ranks)
        queue.hold(rows[2 * ranks.rank :][:2], ranks)
        queue.advance()
        return queue.rows

    assert all(torch.equal(found, whole.rows) for found in on_ranks(advanced))
