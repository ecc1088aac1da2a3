"""No step makes the host wait for a device: held without one, on tensors of `meta`, which have no values to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sciencessl.train.memory import Silent
from sciencessl.train.ranks import ALONE, Ranks
from tests.train.device_steps import KINDS, Steps, trainer_of

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
FROM_LISTS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


class WaitError(Exception):
    """Something that makes the host wait for a GPU."""


class NoWaiting(TorchDispatchMode):
    """What `meta` would let pass: copies that block, and tensors of the host that meet those of the device.

    Of the latter some only cost a copy, and some do not even that; none is needed.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.numel()}
        if func in COPIES and (asked := kwargs.get("device")):
            places.add(torch.device(asked).type)
        waits = not any(x is True for x in (kwargs.get("non_blocking"), *args[2:])) if func in COPIES else True
        if len(places) > 1 and waits:
            raise WaitError(f"{func} of {sorted(places)}")
        return func(*args, **kwargs)


class NoLists(TorchFunctionMode):
    """Tensors of the device made from Python numbers: a copy that blocks, which torch makes where no mode sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in FROM_LISTS and made.device == META:
            raise WaitError(func.__name__)
        return made


@contextmanager
def no_waiting() -> Iterator[None]:
    """Where nothing may wait."""
    with NoLists(), NoWaiting():
        yield


@pytest.fixture(autouse=True)
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets autocast and fused AdamW take `meta`, which they could and refuse."""

    def autocast(device_type: str, **settings: Any) -> AbstractContextManager[None]:
        assert device_type == "meta"
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    optimizers = import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta"])


@pytest.mark.parametrize(("kind", "ranks"), [
    *((kind, ALONE) for kind in KINDS), *((kind, Silent(0, 2)) for kind in ("hybrid", "swav", "labels only")),
])
def test_no_step_waits_for_the_device(kind: str, ranks: Ranks) -> None:
    steps = Steps(KINDS[kind], META, "bfloat16", ranks)
    steps.take(0)  # lays constants on the device
    with no_waiting():
        assert steps.take(1)["loss"].device == META


def test_no_step_of_the_trainer_waits_where_nothing_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(KINDS["hybrid"], META, "bfloat16")
    module = trainer_of(steps, META, tmp_path, monkeypatch)
    module.training_step(steps.batches[0], 0)
    with no_waiting():
        module.training_step(steps.batches[1], 1)
    assert module.taken == 2
    module.on_train_end()


@pytest.mark.parametrize("waiting", [
    lambda x: x.sum().item(),
    lambda x: bool((x > 0).any()),
    lambda x: x[x > 0],
    lambda x: x.nonzero(),
    lambda x: x.to("cpu", non_blocking=True),
    lambda x: x.tolist(),
    lambda x: torch.ones(3).to(x.device),
    lambda x: x.copy_(torch.ones(3)),
    lambda x: torch.tensor([1, 2], device=x.device),
    lambda x: x.new_tensor(1.0),
    lambda x: torch.where(x > 0, x, torch.zeros(())),
    lambda x: torch.stack([x.sum(), torch.zeros(())]),
    lambda x: x * torch.ones(()),
    lambda x: x[torch.tensor([0, 2])],
])
def test_what_waits_is_found(waiting: Callable[[Tensor], Any]) -> None:
    x = torch.ones(3, device=META)
    with no_waiting(), pytest.raises((WaitError, RuntimeError, NotImplementedError)):
        waiting(x)


@pytest.mark.parametrize("going_on", [
    lambda x: torch.ones(3).to(x.device, non_blocking=True),
    lambda x: x.copy_(torch.ones(3), non_blocking=True),
    lambda x: torch.where(x > 0, 2.0 * x, 0.0),
    lambda x: torch.full((2,), 3.0, device=x.device),
    lambda x: x.new_zeros(()) + x[0],
    lambda x: (torch.ones(3) > 0).nonzero(),
])
def test_what_does_not_wait_passes(going_on: Callable[[Tensor], Any]) -> None:
    with no_waiting():
        going_on(torch.ones(3, device=META))
