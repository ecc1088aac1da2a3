"""`check_method`: a method against the protocol of `sciencessl.methods.base`, on a tiny encoder and random pixels."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciencessl.losses.labels import ClassLoss
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.monitor.watch import Monitor
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.registry import load_method
from sciencessl.samples import Batch
from sciencessl.testing.requirement import is_frozen_dataclass, require
from sciencessl.train.step import LabelTerm, Network, Recipe, Wrapped, train_step

BATCH, SIDE, FEATURES, CLASSES, STEPS = 8, 8, 6, 3, 6
STATUSES = ("verified", "reconstructed", "ours")


def check_method(method: str | type[Method], options: Any = None) -> tuple[str, ...]:
    """Check that a method does what the step, the run and the checkpoint ask of it. Takes seconds, on the CPU.

    Args:
        method: Name, FILE.py:NAME, or the class.
        options: Settings to check it with; its defaults when None.

    Returns:
        What was checked, in order.

    Raises:
        ConformanceError: At the first thing that does not hold.
        RegistryError: When there is no such method.
    """
    kind = load_method(method) if isinstance(method, str) else method
    _check_class(kind)
    chosen = kind.Options() if options is None else options

    def make(seed: int = 0) -> Method:
        return kind(_encoder(), chosen, torch.Generator().manual_seed(seed))

    checks: tuple[Callable[[Callable[..., Method]], None], ...] = (
        _construction, _outputs, _gradients, _after_step, _copies, _resume, _labels, _monitors,
    )
    for check in checks:
        check(make)
    return ("class", *(check.__name__.removeprefix("_") for check in checks))


def _encoder() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder: Any = nn.Sequential(
            nn.Conv2d(3, FEATURES, 3), nn.BatchNorm2d(FEATURES), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
    encoder.num_features = FEATURES
    module: nn.Module = encoder
    return module


def _batch(step: int, views: int, labelled: bool = True) -> Batch:
    rng = np.random.default_rng(step)
    pixels = [{"image": torch.from_numpy(rng.normal(size=(BATCH, 3, SIDE, SIDE)).astype("f4"))} for _ in range(views)]
    classes = np.where(rng.uniform(size=BATCH) < 0.6, rng.integers(0, CLASSES, BATCH), -1)
    classes[0] = 1  # never without a label by chance
    labels = {"class": torch.from_numpy(classes if labelled else np.full(BATCH, -1))}
    return Batch(pixels, labels, [str(i) for i in range(BATCH)], np.arange(BATCH))


class _Training:
    """A method with a label term, an optimiser and a count of steps: what a run consists of."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.term = LabelTerm("class", ClassLoss(CLASSES), FEATURES, torch.Generator().manual_seed(1))
        self.modules = nn.ModuleDict({"method": method, "term": self.term})
        self.optimizer = LARS(parameter_groups(self.modules, 1e-4), lr=0.0, eta=0.1)
        self.taken = 0

    def step(self, labelled: bool = True, accumulate: int = 1) -> dict[str, Any]:
        batch = _batch(self.taken, self.method.n_views, labelled)
        size = BATCH // accumulate
        parts = [batch.slice(start, start + size) for start in range(0, BATCH, size)]
        recipe = Recipe(
            total_steps=STEPS, batch=BATCH, accumulate=accumulate, learning_rate=lambda step: 0.1,
            to_input=lambda x: x, field="image",
        )
        wrapped = Wrapped(Network(self.method, [self.term], recipe))
        result = train_step(wrapped, self.optimizer, parts, self.taken)
        self.taken += 1
        return result.metrics

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load(self, state: dict[str, Any], taken: int) -> None:
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.taken = taken


def _check_class(kind: Any) -> None:
    require(isinstance(kind, type) and issubclass(kind, Method), f"{kind!r} is not made from methods.base.Method.")
    name = kind.__name__
    for attribute in ("title", "paper", "status", "cost", "Options"):
        require(hasattr(kind, attribute), f"{name} has no class attribute {attribute!r}.")
    require(kind.status in STATUSES, f"{name}.status is {kind.status!r}, expected one of {', '.join(STATUSES)}.")
    require(isinstance(kind.n_views, int) and kind.n_views >= 1, f"{name}.n_views is {kind.n_views!r}, expected 1 up.")
    options = kind.Options
    require(is_frozen_dataclass(options), f"{name}.Options is no frozen dataclass: settings do not change in a run.")
    bare = [entry.name for entry in dataclasses.fields(options)
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING]
    require(not bare, f"{name}.Options has no default for {', '.join(bare)}: a method must run without being tuned.")


def _construction(make: Callable[..., Method]) -> None:
    before = torch.get_rng_state()
    first, second, other = make(0), make(0), make(1)
    require(torch.equal(before, torch.get_rng_state()),
            "construction draws from torch's global generator; draw from the one that is given.")
    require(_same(first.state_dict(), second.state_dict()),
            "two constructions from equal generators differ; every initial weight comes from the encoder or generator.")
    require(first.features == FEATURES, f"features is {first.features}; the encoder's num_features is {FEATURES}.")
    drawn = set(first.state_dict()) - {f"encoder.{name}" for name in first.encoder.state_dict()}
    trained = {n for n, p in first.named_parameters() if p.requires_grad and p.ndim > 1 and n in drawn}
    require(not trained or not _same(first.state_dict(), other.state_dict()),
            "the seed of the generator changes nothing, though there are weights beside the encoder's.")


def _forward(method: Method, step: int = 0) -> tuple[Online, list[Tensor], PairLoss | None]:
    views = [view["image"] for view in _batch(step, method.n_views).views]
    online = method.online(views)
    with torch.no_grad():
        targets = method.target(views)
    return online, targets, method.pair_loss(online, targets)


def _outputs(make: Callable[..., Method]) -> None:
    online, targets, pair = _forward(make())
    require(len(online.representations) >= 1, "online() gives no representation; label heads and evaluation need one.")
    for y in online.representations:
        require(y.shape == (BATCH, FEATURES), f"a representation is {tuple(y.shape)}, expected {(BATCH, FEATURES)}.")
    for what, found in (("projection", online.projections), ("prediction", online.predictions), ("target", targets)):
        for z in found:
            require(z.ndim == 2 and len(z) == BATCH, f"a {what} is {tuple(z.shape)}, expected ({BATCH}, D).")
    if pair is None:
        return
    require(pair.total.ndim == 0 and bool(pair.total.isfinite()), "pair_loss().total is no finite scalar.")
    require(pair.scale.ndim == 0 and not pair.scale.requires_grad, "pair_loss().scale is no scalar without gradient.")
    require(pair.rows == BATCH, f"pair_loss().rows is {pair.rows}, expected {BATCH}: the loss is a sum over rows.")


def _gradients(make: Callable[..., Method]) -> None:
    method = make()
    _, targets, pair = _forward(method)
    require(all(not z.requires_grad for z in targets), "target() carries gradient.")
    frozen = {n: p.clone() for n, p in method.named_parameters() if not p.requires_grad}
    if pair is not None:
        pair.total.backward()  # type: ignore[no-untyped-call]
        silent = [n for n, p in method.encoder.named_parameters() if p.grad is None or not bool(p.grad.any())]
        # A bias before batch norm has none by construction.
        require(len(silent) <= 1, f"no gradient of the pair loss reaches the encoder's {', '.join(silent)}.")
        wrong = [n for n, p in method.named_parameters() if n in frozen and p.grad is not None]
        require(not wrong, f"the target's {', '.join(wrong)} received a gradient.")
    training = _Training(make())
    before = {n: p.clone() for n, p in training.method.encoder.named_parameters()}
    metrics = training.step()
    require(bool(torch.as_tensor(metrics["loss"]).isfinite()), "the loss of the first step is not finite.")
    moved = [n for n, p in training.method.encoder.named_parameters() if not torch.equal(p, before[n])]
    require(bool(moved), "a step does not move the encoder.")


def _after_step(make: Callable[..., Method]) -> None:
    training = _Training(make())
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
    method = make()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    _forward(method)
    require(_same(before, dict(method.named_parameters())),
            "a forward pass moves parameters; only the optimiser and after_step may.")


def _copies(make: Callable[..., Method]) -> None:
    method = make()
    before = copy.deepcopy(method.state_dict())
    probe = _Training(copy.deepcopy(method))
    probe.step()
    probe.step()
    require(_same(before, method.state_dict()),
            "a step of a deep copy changes the original: a run is measured on copies of its method.")


def _resume(make: Callable[..., Method]) -> None:
    whole = _Training(make())
    for _ in range(2):
        whole.step()
    state = whole.state()
    resumed = _Training(make(7))
    resumed.load(state, 2)
    for training in (whole, resumed):
        for _ in range(2):
            training.step()
    first, second = whole.state(), resumed.state()
    different = [n for n, v in first["modules"].items() if not torch.equal(v, second["modules"][n])]
    require(not different, f"after loading its state_dict a method goes on differently, in {', '.join(different[:3])}: "
                           "whatever it remembers belongs into parameters or buffers.")


def _labels(make: Callable[..., Method]) -> None:
    for accumulate in (1, 2):
        training = _Training(make())
        for labelled in (True, False):
            metrics = training.step(labelled, accumulate)
            loss = torch.as_tensor(metrics["loss"])
            state = "with" if labelled else "without"
            require(bool(loss.isfinite()), f"the loss of a step {state} labels in {accumulate} part(s) is {loss}.")
            finite = all(bool(p.isfinite().all()) for p in training.modules.parameters())
            require(finite, f"a step {state} labels in {accumulate} part(s) leaves weights that are not finite.")


def _monitors(make: Callable[..., Method]) -> None:
    method = make()
    for slow, fast in method.target_pairs():
        ours, theirs = ([p.shape for p in module.parameters()] for module in (slow, fast))
        require(ours == theirs, "target_pairs() gives modules whose weights differ in number or shape.")
    online, targets, _ = _forward(method)
    require("std" in Monitor().read(method, online, targets), "the spread of the representation is not finite.")


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
