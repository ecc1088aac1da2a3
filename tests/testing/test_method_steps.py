"""What breaks the contract over several steps, views or processes is seen, and named."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol
from sciencessl.testing import ConformanceError, check_method
from sciencessl.testing.method_case import SIDE, Case, tiny_encoder
from sciencessl.testing.method_ranks import ThreadRanks, UnequalCallsError, check_ranks, draws, on_ranks
from sciencessl.testing.method_steps import (
    check_accumulation,
    check_draws,
    check_precision,
    check_resume,
    check_views,
    check_without_values,
)
from sciencessl.train.ranks import Ranks
from tests.testing.test_method import SMALL


def case(kind: Any) -> Case:
    return Case(kind, SMALL, tiny_encoder, SIDE)


class _Changed(Byol):
    """BYOL whose loss is changed by `changed`; a subclass says how."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("seen", torch.zeros(()))

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        found = super().pair_loss(online, targets)
        return PairLoss(self.changed(found.total, online), found.scale, found.rows)

    def changed(self, total: Tensor, online: Online) -> Tensor:
        return total


class _AnyViews(Byol):
    def check_views(self, shapes: Sequence[Sequence[int]]) -> None:
        pass


class _AnyNumber(_AnyViews):
    multi_crop = False

    def check_views(self, shapes: Sequence[Sequence[int]]) -> None:
        if len(shapes) < 2:
            raise ConfigError("two, please.")


class _TwoOfMany(Byol):
    def online(self, views: Sequence[Tensor]) -> Online:
        return super().online(views[:2])


class _Unused(Byol):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.spare = nn.Parameter(torch.zeros(3))


class _CountsForwards(_Changed):
    def changed(self, total: Tensor, online: Online) -> Tensor:
        self.seen += 1
        return total


class _OwnChance(_Changed):
    def changed(self, total: Tensor, online: Online) -> Tensor:
        return total * random.random()


class _KeepsForwards(_Changed):
    """Remembers in no buffer what the next step uses."""

    last = 1.0

    def changed(self, total: Tensor, online: Online) -> Tensor:
        before, self.last = self.last, self.last + 1
        return total * before


class _Half(_Changed):
    def changed(self, total: Tensor, online: Online) -> Tensor:
        return total.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else total


class _OwnStatistics(_Changed):
    """A spread over the rows of this process alone."""

    def changed(self, total: Tensor, online: Online) -> Tensor:
        return total + online.projections[0].std(dim=0).sum() * len(online.projections[0])


class _OwnMean(_Changed):
    def changed(self, total: Tensor, online: Online) -> Tensor:
        self.seen.copy_(online.projections[0].detach().mean())
        return total


class _FirstAlone(_Changed):
    def changed(self, total: Tensor, online: Online) -> Tensor:
        if self.ranks.first:
            self.ranks.sum(total.detach().clone())
        return total


class _Branches(_Changed):
    def changed(self, total: Tensor, online: Online) -> Tensor:
        return total if total > 0 else 2 * total


class _Noise(_Changed):
    """A method that draws as it should."""

    def changed(self, total: Tensor, online: Online) -> Tensor:
        return total * torch.rand((), dtype=total.dtype)


@pytest.mark.parametrize(
    ("check", "kind", "message"),
    [
        (check_views, _AnyViews, r"_AnyViews.check_views takes 1 large view\(s\), and n_views is 2"),
        (check_views, _AnyNumber, "takes 3 views, and multi_crop is False: one more would be lost"),
        (check_views, _TwoOfMany, "of 5 views, the last two small, the loss does not learn from view 2, 3, 4"),
        (check_accumulation, _Unused, "a backward pass gives no gradient to spare: processes wait"),
        (check_accumulation, _CountsForwards, "that is surveyed first, .* differs in seen from one that is not"),
        (check_resume, _KeepsForwards, "a method goes on differently, in method.encoder"),
        (check_draws, _OwnChance, "two steps from one state and seed differ, in method.encoder"),
        (check_draws, _KeepsForwards, "a forward pass without gradient changes the step after it, in method.encoder"),
        (check_precision, _Half, r"pair_loss\(\).total is torch.bfloat16, expected torch.float32"),
        (check_ranks, _OwnStatistics, "in step 0 the gradient of encoder.* on two processes is .* off that of one"),
        (check_ranks, _OwnMean, "method.seen is not the same on both: sum statistics with self.ranks"),
        (check_ranks, _FirstAlone, r"a rank waits in sum .* for the other|the ranks call .* at the same time"),
        (check_without_values, _Branches, "decides by the values of tensors, so --dry-run cannot count its memory"),
    ],
)
def test_what_breaks_it_is_named(check: Callable[[Case], None], kind: Any, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check(case(kind))


def test_draws_are_seen_and_allowed() -> None:
    assert draws(case(_Noise))
    assert not draws(case(Byol))
    check_draws(case(_Noise))
    check_ranks(case(_Noise))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("cost", 1, "cost is 1, expected the operations of a step over BYOL's"),
        ("cost", float("nan"), "cost is nan"),
        ("exports", "projector", "exports is 'projector', expected the name of a child that has the weights"),
        ("exports", "teacher", "exports is 'teacher'"),
        ("own_buffers", ("queue",), "own_buffers names queue, expected some of encoder.1.running_mean"),
    ],
)
def test_what_a_class_says_of_itself_is_checked(attribute: str, value: Any, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_method(type("Wrong", (Byol,), {attribute: value}), SMALL)


def wide_encoder() -> nn.Module:
    """A kind of encoder with an attribute that others lack."""
    encoder: Any = tiny_encoder()
    encoder.patches = 4
    module: nn.Module = encoder
    return module


@pytest.mark.parametrize("error", [ConfigError, AttributeError])
def test_another_kind_of_encoder_is_refused_in_words(error: type[Exception]) -> None:
    class Picky(Byol):
        def __init__(self, encoder: nn.Module, *args: Any) -> None:
            if not hasattr(encoder, "patches"):
                raise error("patches")
            super().__init__(encoder, *args)

    if error is ConfigError:
        assert "ranks" in check_method(Picky, SMALL, wide_encoder)
        return
    with pytest.raises(ConformanceError, match="another kind raises AttributeError: patches"):
        check_method(Picky, SMALL, wide_encoder)


def test_ranks_that_are_threads_compute_as_processes_do() -> None:
    """Sums, maxima, rows in order; and the gradient of a loss of all rows, (sum of rows)^2: 2 * 10 for each."""

    def every(ranks: Ranks) -> tuple[Any, ...]:
        own = torch.tensor([1.0, 2.0]) + 2 * ranks.rank
        rows = own.clone().requires_grad_()
        everyone = ranks.gather_learning(rows)
        (everyone.sum().square() / ranks.world).backward()
        return ranks.sum(own.clone()).tolist(), ranks.reduce(own.clone(), "max").tolist(), everyone.tolist(), rows.grad

    for found in on_ranks(every):
        assert found[:3] == ([4.0, 6.0], [3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
        assert found[3].tolist() == [20.0, 20.0]


def test_the_error_of_a_rank_is_told_and_not_that_the_other_misses_it() -> None:
    def fails(ranks: Ranks) -> None:
        if not ranks.first:
            raise ZeroDivisionError
        ranks.sum(torch.zeros(3))

    with pytest.raises(ZeroDivisionError):
        on_ranks(fails)


def test_calls_that_do_not_meet_are_named_at_once() -> None:
    def once_more(ranks: Ranks) -> None:
        ranks.sum(torch.zeros(3))
        if ranks.first:
            ranks.gather(torch.zeros(2, 5))

    with pytest.raises(UnequalCallsError, match=r"a rank waits in gather \(2, 5\) torch.float32 for the other"):
        on_ranks(once_more)

    def shapes(ranks: Ranks) -> None:
        ranks.sum(torch.zeros(3 + ranks.rank))

    with pytest.raises(UnequalCallsError, match=r"the ranks call sum \(3,\) .* and sum \(4,\) .* at the same time"):
        on_ranks(shapes)
    assert ThreadRanks().world == 1
