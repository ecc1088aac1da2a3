"""Where a process stands, and how a network is laid out for several: each step of the plan by itself and together."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.config import RunConfig
from sciencessl.errors import ConfigError, FirstRankError, LostRankError, RunError
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.setting_groups import Checkpointing, ComputeConfig, Strategy
from sciencessl.train import parallel
from sciencessl.train.parallel import (
    checkpoint_activations,
    device_of,
    full_state,
    heads,
    joined,
    shared_slots,
    stages,
    trunk,
    usable_world,
    wrap,
)
from sciencessl.train.place import Place
from sciencessl.train.ranks import ALONE, Ranks, StopVote, others_needed
from sciencessl.train.step import Network, Recipe, train_step
from tests.train.two_processes import TwoProcesses

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "local_rank", "seen", "found"),
    [("auto", 0, 0, "cpu"), ("cpu", 0, 8, "cpu"), ("auto", 0, 1, "cuda:0"), ("cuda", 5, 8, "cuda:5"),
     ("auto", 5, 1, "cuda:0")],  # the last as srun --gpus-per-task=1 shows them
)
def test_each_process_has_a_gpu_of_its_own_with_a_number(
    name: str, local_rank: int, seen: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert device_of(name, Place(local_rank, 8, local_rank, 8)) == torch.device(found)


@pytest.mark.parametrize(
    ("seen", "words"), [(0, "compute.device is cuda, and torch sees no GPU here; choose cpu or auto"),
                        (3, "process 3 of this machine, counted from 0, has no GPU: torch sees 3")],
)
def test_a_gpu_that_is_not_there_is_refused(seen: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    with pytest.raises(ConfigError, match=words):
        device_of("cuda", Place(3, 4, 3, 4))


def test_a_lost_node_leaves_the_most_processes_that_share_a_batch_evenly() -> None:
    assert [usable_world(n, 64) for n in (64, 63, 56, 24, 3, 1)] == [64, 32, 32, 16, 2, 1]
    assert usable_world(10, 50) == 10


def test_each_process_has_an_equal_share_of_each_micro_batch() -> None:
    """Four processes of a batch of 16 would have 4 rows each, for 8 micro-batches."""
    data = ("stores/x.zarr",)
    assert shared_slots(RunConfig(data=data, batch=16)) == 16
    assert shared_slots(RunConfig(data=data, batch=16, accumulate=8)) == 2
    assert shared_slots(RunConfig(data=data, batch=6, accumulate=2)) == 1
    assert shared_slots(RunConfig(data=data, batch=64, slots=4, accumulate=2)) == 4


def test_processes_that_are_left_over_do_nothing_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "find_place", lambda rank=rank: Place(rank, 3, rank, 3, "tcp://nowhere:1"))
        with joined(1, "cpu", told.append) as place:
            assert place == ((ALONE, CPU) if rank == 0 else None)
    assert told == ["3 processes cannot share the 1 slots of a micro-batch evenly: 1 train, 2 do nothing"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 4), ("regnety_002", 4), ("convnext_atto", 4), ("vit_tiny_patch16_224", 12), ("test_resnet", 4),
     ("efficientnet_b0", 7), ("swin_tiny_patch4_window7_224", 4)],
)
def test_timm_encoders_have_stages(name: str, count: int) -> None:
    with torch.device("meta"):
        assert len(stages(timm.create_model(name, num_classes=0))) == count


class Small(nn.Module):
    """An encoder of two stages, with dropout and batch statistics."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(_block(3, 4), _block(4, 4))
        self.layer2 = nn.Sequential(_block(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer2(self.layer1(x)).mean((2, 3))
        return y


def _block(wide: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.Dropout(0.3))


def byol(encoder: nn.Module, dtype: torch.dtype = torch.float64) -> Byol:
    method = Byol(encoder, ByolOptions(hidden=8, out=4, tau_base=0.9), torch.Generator().manual_seed(1))
    return method.to(dtype)


def test_trunk_and_heads_are_those_of_online_and_target_network() -> None:
    method = byol(Small())
    assert trunk(method) == [method.encoder.layer1, method.encoder.layer2, method.target_encoder.layer1,
                             method.target_encoder.layer2]
    assert heads(method) == [method.projector, method.predictor, method.target_projector]


def learnt(
    ranks: Ranks, compute: ComputeConfig, name: str = "", steps: int = 2, dtype: torch.dtype = torch.float64,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The state of a network after some steps on 8 samples, of which each rank has its part."""
    torch.manual_seed(0)
    encoder = build_backbone(name, 3, 0) if name else Small()
    recipe = Recipe(10, 8, 1, lambda step: 5.0, lambda x: x.to(dtype), "image", autocast=autocast)
    network = Network(byol(encoder, dtype), [], recipe)
    wrapped = wrap(network, compute, ranks, CPU)
    optimizer = LARS(parameter_groups(network, 1e-3), lr=0.0)
    each = 8 // ranks.world
    for step in range(steps):
        views = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        mine = views[:, ranks.rank * each : (ranks.rank + 1) * each]
        batch = Batch([{"image": view} for view in mine], {}, [""] * each, np.arange(each))
        train_step(wrapped, optimizer, [batch], step)
    return full_state(network)


@pytest.mark.parametrize("by", ["stage", "block"])
def test_activations_that_are_computed_again_change_nothing(by: Checkpointing) -> None:
    """Weights, moving averages, masks of dropout, and running statistics, which move once."""
    kept = learnt(ALONE, ComputeConfig())
    again = learnt(ALONE, ComputeConfig(checkpointing=by))
    assert int(again["method.encoder.layer1.0.1.num_batches_tracked"]) == 4  # two views, two steps
    assert list(kept) == list(again)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.mark.parametrize(
    ("by", "kept"), [("stage", {"layer1", "layer2"}), ("block", {"layer1.0", "layer1.1", "layer2.0"})]
)
def test_what_is_computed_again(by: Checkpointing, kept: set[str]) -> None:
    method = byol(Small())
    calls: list[str] = []
    checkpoint_activations(method, by)
    copied = copy.deepcopy(method)
    for name, module in copied.encoder.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    copied.encoder(torch.zeros(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
    inside = {name for name in calls if calls.count(name) == 2}
    assert {name for name, module in copied.encoder.named_modules() if "Checkpointed" in type(module).__name__} == kept
    assert inside == {name for name, _ in method.encoder.named_modules() if any(name.startswith(f"{k}.") for k in kept)}


def test_an_encoder_without_stages_is_refused() -> None:
    class Plain(nn.Linear):
        num_features = 3

    with pytest.raises(ConfigError, match=r"compute.checkpointing: the encoder has no stages"):
        checkpoint_activations(byol(Plain(3, 3)), "stage")


@pytest.mark.parametrize(
    ("strategy", "by"), [("ddp", "none"), ("fsdp", "none"), ("fsdp", "stage"), ("ddp", "block"), ("fsdp", "block")]
)
def test_a_regnet_of_two_processes_is_that_of_one(both: TwoProcesses, strategy: Strategy, by: Checkpointing) -> None:
    """Gates, groups, batch statistics; sharded stages of online and target network: to 1e-9."""
    whole = learnt(ALONE, ComputeConfig(), "regnety_002")
    for part in both(learnt, ComputeConfig(strategy=strategy, checkpointing=by), "regnety_002"):
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_sharded_weights_that_travel_in_bfloat16_learn_as_whole_ones(both: TwoProcesses) -> None:
    """Rounding alone differs: it is within that of one process, computed in bfloat16 and in float32."""
    half = (torch.float32, torch.bfloat16)
    replicated, _ = both(learnt, ComputeConfig(strategy="ddp"), "regnety_002", 1, *half)
    sharded, _ = both(learnt, ComputeConfig(strategy="fsdp"), "regnety_002", 1, *half)
    exact = learnt(ALONE, ComputeConfig(), "regnety_002", 1, torch.float32)
    names = [name for name, value in exact.items() if value.is_floating_point()]
    off, rounding = (
        torch.stack([(x[name] - y[name]).norm() for name in names]).norm()
        for x, y in ((sharded, replicated), (replicated, exact))
    )
    assert 0 < off < rounding
    assert all(sharded[name].dtype == exact[name].dtype for name in names)


def votes(ranks: Ranks, asked: int) -> list[bool]:
    vote = StopVote(ranks)
    return [vote(step == asked and ranks.rank == 1) for step in range(4)]


def test_all_ranks_stop_one_step_after_one_was_asked(both: TwoProcesses) -> None:
    assert both(votes, 1) == [[False, False, True, False]] * 2
    vote = StopVote(ALONE)
    assert [vote(False), vote(True)] == [False, True]


def first_fails(ranks: Ranks) -> Any:
    def fail() -> None:
        raise ConfigError("there is no such folder.")

    assert ranks.from_first(lambda: ranks.rank) == 0
    with pytest.raises((ConfigError, FirstRankError)) as raised:
        ranks.from_first(fail)
    return type(raised.value).__name__, str(raised.value)


def test_what_fails_on_the_first_rank_fails_on_all(both: TwoProcesses) -> None:
    assert both(first_fails) == [
        ("ConfigError", "there is no such folder."),
        ("FirstRankError", "the first process of the run failed with ConfigError: there is no such folder."),
    ]


def test_what_fails_on_the_first_rank_is_said_though_another_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: Any, **more: Any) -> None:
        raise RuntimeError("[/b/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.1]:80")

    def fail() -> None:
        raise ConfigError("there is no such folder.")

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lost)
    with pytest.raises(ConfigError, match="there is no such folder"):
        Ranks(0, 2).from_first(fail)
    with pytest.raises(RuntimeError, match="closed by peer"):
        Ranks(1, 2).from_first(fail)


@pytest.mark.parametrize(
    ("said", "cause"),
    [("[/b/gloo/pair.cc:561] Connection closed by peer [10.0.0.1]:80. This is typically caused by a remote worker "
      "crashing.", "(Connection closed by peer [10.0.0.1]:80)"),
     ("[/b/gloo/unbound_buffer.cc:78] Timed out waiting 60ms for recv operation to complete", "(Timed out waiting"),
     ("Application timeout caused pair closure", "(Application timeout caused pair closure)")],
)
def test_a_process_that_is_gone_is_told_in_plain_words(said: str, cause: str) -> None:
    with pytest.raises(LostRankError) as raised, others_needed():
        raise RuntimeError(said)
    assert str(raised.value).startswith(f"another process of the run has ended or does not answer {cause}")
    assert "go on from them with --resume" in str(raised.value)


@pytest.mark.parametrize("other", [RunError("/scratch/gloo/run is in use"), RuntimeError("shapes differ"), KeyError(1)])
def test_other_errors_stay_what_they_are(other: Exception) -> None:
    with pytest.raises(type(other)) as raised, others_needed():
        raise other
    assert raised.value is other


def test_an_error_of_all_ranks_is_said_by_the_first() -> None:
    error = RunError("the loss is nan.")
    assert Ranks(0, 2).alike(error) is ALONE.alike(error) is error
    other = Ranks(1, 2).alike(error)
    assert (type(other), str(other)) == (
        FirstRankError, "the first process of the run failed with RunError: the loss is nan."
    )
