"""`average`: the mean of several encoders, weight by weight, as a folder that serves as a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError, DataError, RunError, unknown_name
from sciencessl.evaluate.encoders import read_card
from sciencessl.evaluate.export_words import EVALUATED
from sciencessl.evaluate.pretrained_on import ancestry
from sciencessl.store.files import write_atomic
from sciencessl.store.remote import local_path
from sciencessl.train.checkpoint import checkpoints, read_checkpoint, steps_taken
from sciencessl.train.folder import COST, WEIGHTS, ModelCard, write_model
from sciencessl.train.tensor_files import read_into, read_kinds

Network = Literal["exported", "online", "target"]
MODULES: Mapping[str, str] = {"online": "encoder", "target": "target_encoder"}
"""Network -> what a method calls its encoder."""

ADDED = ("steps", "images_seen", "device_hours", "wall_seconds", "estimated_operations")
"""Of `cost.json`: what the runs took together."""

STATISTICS = (
    "Running statistics of batch norm were averaged like weights. That is an approximation: the mean network's own "
    "activations have other statistics."
)
STRANGERS = (
    "These runs have no common start on record. Networks that were trained apart store the same thing in other places, "
    "and their mean most often knows less than any of them: compare it with `sciencessl transfer`."
)


@dataclass(frozen=True)
class AverageResult:
    """What `average` wrote.

    Attributes:
        out: A folder that serves as a run.
        averaged: What it is the mean of, in words.
        network: `exported`, `online` or `target`.
        features: F.
        notes: What one should know of this mean.
    """

    out: Path
    averaged: tuple[str, ...]
    network: str
    features: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """One encoder to be averaged: that a run exported, or one in a checkpoint of a run."""

    name: str
    run: Path
    card: ModelCard
    checkpoint: Path | None = None
    module: str = ""

    def read(self) -> dict[str, Tensor]:
        if self.checkpoint is not None:
            return _from_checkpoint(self.checkpoint, self.module)
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: dict[str, Tensor] = load_file(self.run / WEIGHTS)
        except (OSError, SafetensorError) as error:
            kind = type(error).__name__
            raise DataError(f"{self.run / WEIGHTS} cannot be read ({kind}): it is missing or damaged.") from error
        return found


def average(
    inputs: Sequence[str | Path], out: str | Path, last: int = 0, network: Network = "exported"
) -> AverageResult:
    """Write the mean of encoders, each with equal weight, as a folder that `embed`, `transfer` and `export` take.

    Computed in float64 and kept in the dtype that the weights have. Whole numbers (counts of batches) are those of the
    last input. The card is one of all: every store, label and start that any of them has, so that marks say what each
    saw. A single target network may stand alone, since it is a moving average already.

    Args:
        inputs: Finished runs, or checkpoints of theirs, `RUN/checkpoints/step-00000200`.
        out: Folder to write, new or empty.
        last: Take so many last checkpoints of each run, not its exported encoder; 0 takes that.
        network: `exported` takes the encoder that the run exports, in checkpoints too: of DINO the target, of most
            others the online one. `online` and `target` ask for one of them; where it is not what the run exports, it
            is read from the last checkpoint.

    Raises:
        ConfigError: For an unknown network, fewer than two encoders, one given twice, or encoders of different
            backbone, norm, channels, input statistics or evaluation views.
        RunError: When `out` is not empty, a run is not finished, has too few checkpoints or no target, a checkpoint
            is damaged, or a weight is not finite.
        DataError: When weights are damaged or do not fit their card.
    """
    folder = local_path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not empty; choose another --out.")
    if network not in get_args(Network):
        raise ConfigError(unknown_name("network", network, get_args(Network)))
    if last < 0:
        raise ConfigError(f"--last {last}: give the number of checkpoints, 1 or more.")
    sources = [source for path in inputs for source in _sources(local_path(path, "RUN"), last, network)]
    _check_sources(sources, network)
    card, state = _joint_card(sources), _mean(sources)
    module: Any = build_backbone(card.backbone, len(card.channels), 0, norm=card.norm, size=card.size)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{sources[0].name}: weights do not fit a {card.backbone}: {error}") from error
    write_model(folder, card, module)
    _write_cost(folder, [source.run for source in sources])
    return AverageResult(folder, card.averaged, network, card.features, tuple(_notes(sources, state)))


def average_text(result: AverageResult) -> str:
    """What was averaged, what is approximate, and how to go on, for people."""
    what = f"mean of {len(result.averaged)} encoders" if len(result.averaged) > 1 else "one encoder"
    lines = [f"{what}: {'; '.join(result.averaged)}", *result.notes]
    return "\n".join([*lines, f"written to {result.out}, which serves where a run is expected"])


def _sources(path: Path, last: int, network: str) -> list[_Source]:
    if path.parent.name == "checkpoints":
        return [_of_checkpoint(path.parent.parent, path, read_card(path.parent.parent), network)]
    card = read_card(path)
    if not last and MODULES.get(network, card.module) == card.module:
        return [_Source(str(path), path, card)]
    found, wanted = checkpoints(path), last or 1
    if len(found) < wanted:
        raise RunError(
            f"{path} has {len(found)} checkpoints, and {wanted} are to be read. A run keeps its last two, or "
            "--log.keep_checkpoints of them."
        )
    return [_of_checkpoint(path, each, card, network) for each in found[-wanted:]]


def _of_checkpoint(run: Path, path: Path, card: ModelCard, network: str) -> _Source:
    """One checkpoint, with the card of its run as it was at that step."""
    content = read_checkpoint(path)
    steps, images = steps_taken(content), sum(part["samples"] for part in content["loader"])
    module = MODULES.get(network, card.module)
    which = ", target network" if module == MODULES["target"] else ""
    return _Source(f"{run} at step {steps}{which}", run, replace(card, steps=steps, images=images, module=module), path,
                   module)


def _from_checkpoint(path: Path, module: str) -> dict[str, Tensor]:
    """The encoder's tensors, whole, whatever world size and strategy they were written with."""
    kinds, prefix = read_kinds(path), f"method.{module}."
    state = {name: torch.empty(kind.shape, dtype=kind.dtype)
             for name, kind in kinds.items() if name.startswith(prefix)}
    if not state:
        words = module.replace("_", " ")
        raise RunError(f"{path}: the method of this run has no {words}; leave --network out.")
    read_into(path, state, besides=tuple(name for name in kinds if name not in state))
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _check_sources(sources: Sequence[_Source], network: str) -> None:
    if len(sources) < (1 if network == "target" else 2):
        raise ConfigError(
            "average: one encoder is its own mean. Give several runs or checkpoints, or --last K for the last K "
            "checkpoints of a run."
        )
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"average: {name} is given twice, and each encoder counts once; leave one out.")
    first = _must_agree(sources[0].card)
    for source in sources[1:]:
        for what, value in _must_agree(source.card).items():
            if value != first[what]:
                raise ConfigError(
                    f"average: {what} is {first[what]!r} in {sources[0].name} and {value!r} in {source.name}. Encoders "
                    "are averaged weight by weight, so all must have one architecture and one input."
                )


def _must_agree(card: ModelCard) -> dict[str, Any]:
    views = {f"view setting {name}": card.views.get(name) for name in EVALUATED}
    return {
        "backbone": card.backbone, "norm": card.norm, "domain": card.domain, "field": card.field,
        "channels": card.channels, "input statistics": card.stats, **views,
    }


def _mean(sources: Sequence[_Source]) -> dict[str, Tensor]:
    """Summed one after the other: two encoders are in memory at a time, however many there are."""
    sums: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for source in sources:
        state = source.read()
        if sums and {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in sums.items()}:
            raise DataError(f"{source.name} has other tensors than {sources[0].name}: one of them is damaged.")
        for name, tensor in state.items():
            if not tensor.isfinite().all():
                raise RunError(f"{source.name}: weight {name} is not finite; leave it out.")
            wide = tensor.double()
            sums[name] = sums[name] + wide if name in sums else wide
    return {
        name: (sums[name] / len(sources)).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _joint_card(sources: Sequence[_Source]) -> ModelCard:
    """One card that has seen what any of the encoders saw, and any run that these started from."""
    lines = [ancestry(source.card) for source in sources]
    cards = [card for found, _ in lines for card in found]
    rows: dict[str, int] = {}
    for card in cards:
        for name, count in (card.label_rows or dict.fromkeys(card.label_columns, 0)).items():
            rows[name] = max(count, rows.get(name, 0))
    latest = {source.run.resolve(): source.card for source in sorted(sources, key=lambda source: source.card.steps)}
    return replace(
        sources[-1].card,
        method="+".join(dict.fromkeys(source.card.method for source in sources)),
        steps=sum(card.steps for card in latest.values()),
        images=sum(card.images for card in latest.values()),
        stores=tuple({(store.path, store.digest, *sorted(store.tables.items())): store
                      for card in cards for store in card.stores}.values()),
        label_columns=tuple(_distinct(column for card in cards for column in card.label_columns)),
        label_note="; ".join(_distinct(card.label_note for card in cards)),
        label_rows=rows,
        # What they started from is in this card by now; what could not be looked up stays a line that leads nowhere.
        init_from=", ".join(_distinct(found[-1].init_from for found, complete in lines if not complete)),
        probe_columns=tuple(_distinct(column for card in cards for column in card.probe_columns)),
        sampling="; ".join(_distinct(source.card.sampling for source in sources)),
        leak="; ".join(_distinct(card.leak for card in cards)),
        license=" and ".join(_distinct(card.license for card in cards)),
        averaged=tuple(source.name for source in sources),
    )


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, values)))


def _notes(sources: Sequence[_Source], state: Mapping[str, Tensor]) -> Iterator[str]:
    if len(sources) > 1 and any(name.endswith("running_mean") for name in state):
        yield STATISTICS
    starts = {source.card.init_from for source in sources}
    if len({source.run.resolve() for source in sources}) > 1 and (len(starts) > 1 or "" in starts):
        yield STRANGERS


def _write_cost(folder: Path, runs: Sequence[Path]) -> None:
    """What the runs took together; nothing where one of them has no record."""
    try:
        costs = [json.loads((run / COST).read_text(encoding="utf-8")) for run in dict.fromkeys(runs)]
        total = {name: sum(cost[name] for cost in costs) for name in ADDED}
        total["peak_memory_bytes"] = max(cost["peak_memory_bytes"] for cost in costs)
        total["device"] = ", ".join(_distinct(cost["device"] for cost in costs))
    except (OSError, ValueError, KeyError, TypeError):
        return
    write_atomic(folder / COST, json.dumps(total, indent=1).encode())
