"""A method over several steps: views, micro-batches, resume, draws, half precision, and steps without values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from sciencessl.backbones.norms import statistics_kept
from sciencessl.errors import ConfigError
from sciencessl.methods.base import Method
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.testing.method_case import BATCH, STEPS, Case, Training, different, label_term
from sciencessl.testing.requirement import ConformanceError, require
from sciencessl.train.memory import UNTRACEABLE, batch_like, built_without_storage, no_storage, without_storage
from sciencessl.train.step import Network, Recipe, Wrapped, train_step


def check_views(case: Case) -> None:
    """More views are learned from, or refused; too few are refused."""
    name, needed = case.kind.__name__, case.kind.n_views
    large = (3, case.side, case.side)
    method = case.make()
    method.check_views([large] * needed)
    require(needed == 1 or _refuses(method, [large] * (needed - 1)),
            f"{name}.check_views takes {needed - 1} large view(s), and n_views is {needed}.")
    if not case.kind.multi_crop:
        require(_refuses(method, [large] * (needed + 1)),
                f"{name}.check_views takes {needed + 1} views, and multi_crop is False: one more would be lost.")
        return
    small = case.side // 2
    method.check_views([large] * (needed + 1) + [(3, small, small)] * 2)
    views = [view["image"].requires_grad_() for view in case.batch(extra=(case.side, small, small)).views]
    online = method.online(views)
    with torch.no_grad():
        targets = method.target(views)
    pair = method.pair_loss(online, targets)
    if pair is None:
        return
    require(pair.total.ndim == 0 and bool(pair.total.isfinite()) and pair.rows == BATCH,
            f"with {len(views)} views, small ones among them, pair_loss() is {pair.total} of {pair.rows} rows.")
    pair.total.backward()  # type: ignore[no-untyped-call]
    unused = [str(i) for i, view in enumerate(views) if view.grad is None or not bool(view.grad.any())]
    require(not unused, f"multi_crop is True, and of {len(views)} views, the last two small, the loss does not learn "
                        f"from view {', '.join(unused)}.")


def _refuses(method: Method, shapes: Sequence[Sequence[int]]) -> bool:
    try:
        method.check_views(shapes)
    except ConfigError:
        return True
    return False


def check_accumulation(case: Case) -> None:
    """Each backward pass reaches every parameter, and the survey before it leaves nothing behind."""
    surveyed = Training(case, case.make(), label_weight=0.0)
    surveyed.step(accumulate=2)
    lost = sorted(surveyed.missed)
    require(not lost, f"a backward pass gives no gradient to {', '.join(lost[:3])}: processes wait for that of each "
                      "trained parameter. Use all of them in the loss, or freeze them.")
    if case.forward(case.make())[2] is None:
        return
    plain = Training(case, case.make())
    plain.step(accumulate=2, terms=False)
    apart = different(plain.method.state_dict(), surveyed.method.state_dict())
    require(not apart, f"a step of two micro-batches that is surveyed first, for label terms of weight 0, differs in "
                       f"{', '.join(apart[:3])} from one that is not: what a method remembers must not change without "
                       "gradient (torch.is_grad_enabled).")


def check_resume(case: Case) -> None:
    """A loaded state goes on as the run it is of, wherever in the method's phases it was saved."""
    for taken in (1, 3):
        whole = Training(case, case.make())
        for _ in range(taken):
            whole.step()
        resumed = Training(case, case.make(7))
        resumed.load(whole.state(), taken)
        for training in (whole, resumed):
            for _ in range(2):
                training.step(accumulate=2)
        apart = different(whole.state()["modules"], resumed.state()["modules"])
        require(not apart, f"after loading its state_dict a method goes on differently, in {', '.join(apart[:3])}: "
                           "whatever it remembers belongs into parameters or buffers.")


def check_labels(case: Case) -> None:
    """Steps with and without labels, in one part and two, leave finite weights."""
    for accumulate in (1, 2):
        training = Training(case, case.make())
        for labelled in (True, False):
            metrics = training.step(labelled, accumulate)
            loss = torch.as_tensor(metrics["loss"])
            state = "with" if labelled else "without"
            require(bool(loss.isfinite()), f"the loss of a step {state} labels in {accumulate} part(s) is {loss}.")
            finite = all(bool(p.isfinite().all()) for p in training.modules.parameters())
            require(finite, f"a step {state} labels in {accumulate} part(s) leaves weights that are not finite.")


def check_draws(case: Case) -> None:
    """A step is a function of the state and its seed, whatever was drawn or forwarded before it."""
    found = []
    for seed, forwards in ((1, False), (2, False), (1, True)):
        training = Training(case, case.make())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if forwards:
                with torch.no_grad(), statistics_kept(training.modules):
                    training.network()(case.batch(5))
            training.step()
        found.append(training.state()["modules"])
    apart = different(found[0], found[1])
    require(not apart, f"two steps from one state and seed differ, in {', '.join(apart[:3])}: draw from torch's global "
                       "generator inside the step, which the step seeds, and from nothing else.")
    apart = different(found[0], found[2])
    require(not apart, f"a forward pass without gradient changes the step after it, in {', '.join(apart[:3])}: what a "
                       "method remembers moves in steps alone.")


def check_precision(case: Case) -> None:
    """Losses under bfloat16 autocast are finite and float32."""
    with torch.autocast("cpu", torch.bfloat16):
        pair = case.forward(case.make())[2]
    require(pair is None or pair.total.dtype == torch.float32,
            f"under bfloat16 autocast pair_loss().total is {pair and pair.total.dtype}, expected torch.float32.")
    training = Training(case, case.make(), autocast=torch.bfloat16)
    for _ in range(2):
        loss = torch.as_tensor(training.step()["loss"])
        require(bool(loss.isfinite()), f"under bfloat16 autocast the loss of a step is {loss}.")
    broken = [name for name, p in training.modules.named_parameters() if not bool(p.isfinite().all())]
    require(not broken, f"steps under bfloat16 autocast leave weights that are not finite: {', '.join(broken[:3])}.")


def check_without_values(case: Case) -> None:
    """A step can be traced on tensors that have no values: so its memory is known before the run."""
    try:
        with without_values(case) as (network, optimizer, batch):
            train_step(Wrapped(network), optimizer, [batch], 0)
    except UNTRACEABLE as error:
        raise ConformanceError(
            f"a step decides by the values of tensors, so --dry-run cannot count its memory: {type(error).__name__}: "
            f"{error}. Use masks and torch.where for boolean indices, .item() and branches on tensors."
        ) from error


@contextlib.contextmanager
def without_values(case: Case) -> Iterator[tuple[Network, Optimizer, Batch]]:
    """Network with a label term, optimiser and batch of a step whose tensors have no values, to be used inside."""
    mode = no_storage()
    with built_without_storage(mode):
        method = case.make()
        whole = nn.ModuleList([method, label_term(method.features)])
    recipe = Recipe(STEPS, BATCH, 1, lambda step: 0.1, lambda x: x, "image")
    example = case.batch()
    with mode:
        own, term = without_storage(whole, torch.device("cpu"), torch.contiguous_format)
        network = Network(own, [term], recipe)  # type: ignore[arg-type, list-item]
        yield network, LARS(parameter_groups(network, 1e-4), lr=0.0), batch_like(example, BATCH)
