"""`check_method`: a method against the protocol of `sciencessl.methods.base`, on a tiny encoder and random pixels."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Method
from sciencessl.monitor.watch import Monitor
from sciencessl.registry import load_method
from sciencessl.testing.method_case import BATCH, SIDE, STEPS, Case, Training, different, tiny_encoder
from sciencessl.testing.method_ranks import check_ranks
from sciencessl.testing.method_steps import (
    check_accumulation,
    check_draws,
    check_labels,
    check_precision,
    check_resume,
    check_views,
    check_without_values,
)
from sciencessl.testing.requirement import is_frozen_dataclass, require

STATUSES = ("verified", "reconstructed", "ours")


def check_method(
    method: str | type[Method], options: Any = None, encoder: Callable[[], nn.Module] = tiny_encoder, side: int = SIDE
) -> tuple[str, ...]:
    """Check that a method does what the step, the run and the checkpoint ask of it. Takes seconds, on the CPU.

    Args:
        method: Name, FILE.py:NAME, or the class.
        options: Settings to check it with, small ones for speed; its defaults when None.
        encoder: Builds an encoder of three channels, with the same weights each time, for a method that needs a kind
            of its own.
        side: Pixels of a large view.

    Returns:
        What was checked, in order.

    Raises:
        ConformanceError: At the first thing that does not hold.
        ConfigError: When the method does not take the encoder.
        RegistryError: When there is no such method.
    """
    kind = load_method(method) if isinstance(method, str) else method
    _check_class(kind)
    case = Case(kind, kind.Options() if options is None else options, encoder, side)
    checks: tuple[Callable[[Case], None], ...] = (
        _check_construction, _check_outputs, _check_gradients, _check_after_step, _check_copies, check_views,
        check_accumulation, check_resume, check_labels, check_draws, check_precision, check_ranks,
        check_without_values, _check_monitors,
    )
    for check in checks:
        check(case)
    return ("class", *(check.__name__.removeprefix("_").removeprefix("check_") for check in checks))


def _check_class(kind: Any) -> None:
    require(isinstance(kind, type) and issubclass(kind, Method), f"{kind!r} is not made from methods.base.Method.")
    name = kind.__name__
    for attribute in ("title", "paper", "status", "cost", "Options"):
        require(hasattr(kind, attribute), f"{name} has no class attribute {attribute!r}.")
    require(kind.status in STATUSES, f"{name}.status is {kind.status!r}, expected one of {', '.join(STATUSES)}.")
    require(isinstance(kind.cost, float) and 0.0 < kind.cost < math.inf,
            f"{name}.cost is {kind.cost!r}, expected the operations of a step over BYOL's, such as 0.75.")
    require(isinstance(kind.n_views, int) and kind.n_views >= 1, f"{name}.n_views is {kind.n_views!r}, expected 1 up.")
    options = kind.Options
    require(is_frozen_dataclass(options), f"{name}.Options is no frozen dataclass: settings do not change in a run.")
    bare = [entry.name for entry in dataclasses.fields(options)
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING]
    require(not bare, f"{name}.Options has no default for {', '.join(bare)}: a method must run without being tuned.")


def _check_construction(case: Case) -> None:
    before = torch.get_rng_state()
    first, second, other = case.make(0), case.make(0), case.make(1)
    require(torch.equal(before, torch.get_rng_state()),
            "construction draws from torch's global generator; draw from the one that is given.")
    require(not different(first.state_dict(), second.state_dict()),
            "two constructions from equal generators differ; every initial weight comes from the encoder or generator.")
    width = case.encoder().num_features
    require(first.features == width, f"features is {first.features}; the encoder's num_features is {width}.")
    drawn = set(first.state_dict()) - {f"encoder.{name}" for name in first.encoder.state_dict()}
    trained = {n for n, p in first.named_parameters() if p.requires_grad and p.ndim > 1 and n in drawn}
    require(not trained or bool(different(first.state_dict(), other.state_dict())),
            "the seed of the generator changes nothing, though there are weights beside the encoder's.")
    _check_names(first)
    if case.encoder is not tiny_encoder:
        _check_refusal(case)


def _check_names(method: Method) -> None:
    """What the class says of modules and buffers is there."""
    modules, buffers = dict(method.named_modules()), dict(method.named_buffers())
    exported = modules.get(method.exports)
    require(exported is not None and exported.state_dict().keys() == method.encoder.state_dict().keys(),
            f"exports is {method.exports!r}, expected the name of a child that has the weights of the encoder.")
    absent = [name for name in method.own_buffers if name not in buffers]
    require(not absent, f"own_buffers names {', '.join(absent)}, expected some of {', '.join(buffers) or 'no buffer'}.")


def _check_refusal(case: Case) -> None:
    """A method that needs a kind of encoder takes another one, or says that it does not."""
    try:
        dataclasses.replace(case, encoder=tiny_encoder).make()
    except ConfigError:
        return
    except Exception as error:
        require(False, f"an encoder of another kind raises {type(error).__name__}: {error}. Expected a "
                       "ConfigError that says which encoders the method is for.")


def _check_outputs(case: Case) -> None:
    method = case.make()
    online, targets, pair = case.forward(method)
    expected = (BATCH, method.features)
    require(len(online.representations) >= 1, "online() gives no representation; label heads and evaluation need one.")
    for y in online.representations:
        require(y.shape == expected, f"a representation is {tuple(y.shape)}, expected {expected}.")
    for what, found in (("projection", online.projections), ("prediction", online.predictions), ("target", targets)):
        for z in found:
            require(z.ndim == 2 and len(z) == BATCH, f"a {what} is {tuple(z.shape)}, expected ({BATCH}, D).")
    if pair is None:
        return
    require(pair.total.ndim == 0 and bool(pair.total.isfinite()), "pair_loss().total is no finite scalar.")
    require(pair.scale.ndim == 0 and not pair.scale.requires_grad, "pair_loss().scale is no scalar without gradient.")
    require(pair.rows == BATCH, f"pair_loss().rows is {pair.rows}, expected {BATCH}: the loss is a sum over rows.")
    require(abs(float(pair.scale)) <= 1.001 * BATCH,
            f"pair_loss().scale is {float(pair.scale):.3g} for {BATCH} rows, expected a mean negative cosine a row.")
    for name, value in pair.logged.items():
        require(value.ndim == 0 and not value.requires_grad, f"pair_loss() logs {name}, no scalar without gradient.")


def _check_gradients(case: Case) -> None:
    method = case.make()
    _, targets, pair = case.forward(method)
    require(all(not z.requires_grad for z in targets), "target() carries gradient.")
    frozen = {n: p.clone() for n, p in method.named_parameters() if not p.requires_grad}
    if pair is not None:
        pair.total.backward()  # type: ignore[no-untyped-call]
        silent = [n for n, p in method.encoder.named_parameters() if p.grad is None or not bool(p.grad.any())]
        # A bias before batch norm has none by construction, nor have branches that start off.
        most = 1 if case.encoder is tiny_encoder else len(list(method.encoder.parameters())) // 2
        require(len(silent) <= most, f"no gradient of the pair loss reaches the encoder's {', '.join(silent)}.")
        wrong = [n for n, p in method.named_parameters() if n in frozen and p.grad is not None]
        require(not wrong, f"the target's {', '.join(wrong)} received a gradient.")
    training = Training(case, case.make())
    before = {n: p.clone() for n, p in training.method.encoder.named_parameters()}
    metrics = training.step()
    require(bool(torch.as_tensor(metrics["loss"]).isfinite()), "the loss of the first step is not finite.")
    moved = [n for n, p in training.method.encoder.named_parameters() if not torch.equal(p, before[n])]
    require(bool(moved), "a step does not move the encoder.")


def _check_after_step(case: Case) -> None:
    training = Training(case, case.make())
    calls: list[tuple[int, int]] = []
    inner = training.method.after_step

    def counted(step: int, total: int) -> dict[str, float]:
        calls.append((step, total))
        logged = inner(step, total)
        require(all(isinstance(v, float) for v in logged.values()), f"after_step() logs {logged}, expected floats.")
        return logged

    training.method.after_step = counted  # type: ignore[method-assign]
    for accumulate in (1, 2):
        training.step(accumulate=accumulate)
    require(calls == [(0, STEPS), (1, STEPS)], f"after_step was called with {calls} in two steps, one in two parts.")
    method = case.make()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    case.forward(method)
    require(not different(before, dict(method.named_parameters())),
            "a forward pass moves parameters; only the optimiser and after_step may.")


def _check_copies(case: Case) -> None:
    method = case.make()
    before = copy.deepcopy(method.state_dict())
    probe = Training(case, copy.deepcopy(method))
    probe.step()
    probe.step()
    require(not different(before, method.state_dict()),
            "a step of a deep copy changes the original: a run is measured on copies of its method.")


def _check_monitors(case: Case) -> None:
    method = case.make()
    for slow, fast in method.target_pairs():
        ours, theirs = ([p.shape for p in module.parameters()] for module in (slow, fast))
        require(ours == theirs, "target_pairs() gives modules whose weights differ in number or shape.")
    online, targets, _ = case.forward(method)
    require("std" in Monitor().read(method, online, targets), "the spread of the representation is not finite.")
