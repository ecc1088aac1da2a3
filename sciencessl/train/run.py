"""`pretrain`: from a sealed store to a run folder with an exported encoder."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.config import FullConfig, build_config, load_config, preset_layers, save_config
from sciencessl.data.loader import BatchStream, Decoder, make_loader
from sciencessl.data.order import Order, derive_key
from sciencessl.errors import ConfigError, RunError
from sciencessl.methods.base import Method
from sciencessl.optim.schedules import epochs_to_steps, peak_learning_rate, warmup_cosine
from sciencessl.registry import load_domain, load_method, method_source_digest, resolve
from sciencessl.samples import Batch
from sciencessl.spec import DomainSpec, InputStats
from sciencessl.store.files import write_atomic
from sciencessl.store.reader import Store
from sciencessl.train import checkpoint as ckpt
from sciencessl.train import folder
from sciencessl.train.labels import LabelSet, find_labels
from sciencessl.train.measure import best_time, choose
from sciencessl.train.module import Pretraining, build_optimizer, stop_on_signal
from sciencessl.train.step import LabelTerm, Recipe, train_step
from sciencessl.views.to_input import fit_stats

STATS_SAMPLES = 2048
DEFAULT_SCALE = "laptop"


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        run: Run folder.
        steps: Optimiser steps taken in all.
        images: Source images seen.
        seconds: Wall time of this call.
        finished: False when it was stopped by a signal and can be resumed.
        warnings: What the user was told.
    """

    run: Path
    steps: int
    images: int
    seconds: float
    finished: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunEstimate:
    """What `dry_run` found out: nothing was written.

    Attributes:
        steps: Optimiser steps.
        seconds: Expected training time.
        parameters: Trainable parameters.
        state_bytes: Weights, gradients, optimiser state and target.
        precision: Chosen precision.
        memory_format: Chosen memory format.
        operations_per_image: Floating-point operations of one source image in training.
    """

    steps: int
    seconds: float
    parameters: int
    state_bytes: int
    precision: str
    memory_format: str
    operations_per_image: float


@dataclass
class _Plan:
    """Everything that is decided before the first step."""

    config: FullConfig
    domain: DomainSpec
    store: Store
    labels: list[LabelSet]
    stats: InputStats
    method: Method
    terms: list[LabelTerm]
    order: Order
    device: torch.device


def pretrain(
    data: str | Path = "",
    out: str | Path = "",
    method: str = "byol",
    scale: str = DEFAULT_SCALE,
    config: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    tell: Callable[[str], None] = print,
) -> RunResult | RunEstimate:
    """Pretrain an encoder on split=train of a store.

    Args:
        data: The store; with `resume` it may be left out.
        out: Run folder.
        method: Name, or FILE.py:NAME.
        scale: Shipped scale preset.
        config: YAML files, or `recipe/NAME`; later ones win.
        settings: Dotted setting -> value; wins over files.
        resume: Continue the run in `out` exactly where its last checkpoint stands.
        overwrite: Delete the run in `out` first.
        dry_run: Measure and estimate; write nothing.
        tell: Receives lines for people.

    Returns:
        A `RunResult`, or a `RunEstimate` with `dry_run`.

    Raises:
        ConfigError: For a setting that does not exist or breaks its rule.
        StoreError: When the store is missing or unsealed.
        RunError: When the folder is in use, or a checkpoint does not fit.
    """
    run = Path(out)
    if resume:
        full = _resumed(run, data, method, settings)
    else:
        full = _fresh(data, method, scale, config, settings or {})
    _threads(full)
    plan = _plan(full)
    if dry_run:
        return _estimate(_measured(plan, tell))
    if not resume:
        folder.begin(run, overwrite)
        plan = _measured(plan, tell)
        _write_start(run, plan, settings or {})
    return _train(run, plan, resume, tell)


def _fresh(
    data: str | Path, method: str, scale: str, config: Sequence[str | Path], settings: Mapping[str, Any]
) -> FullConfig:
    domain = load_domain(Store(data).header.domain)
    flags = {**settings, "data": str(data), "method": method}
    return build_config(
        preset_layers(scale, method, domain.name, config), load_method(method).Options, domain.train_options, flags
    )


def _resumed(run: Path, data: str | Path, method: str, settings: Mapping[str, Any] | None) -> FullConfig:
    """The settings of the run as they were; nothing may be changed on the way."""
    path = run / folder.CONFIG
    if not path.is_file():
        raise RunError(f"--resume: {run} holds no run ({folder.CONFIG} is missing). Start it without --resume.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if settings:
        raise ConfigError(
            f"--resume continues {run} with its own settings; got {', '.join(settings)} as well. Leave them out, or "
            "start a new run from its weights with --init-from."
        )
    domain = load_domain(Store(data or values["data"]).header.domain)
    full = load_config(path, load_method(values["method"]).Options, domain.train_options)
    return full if not data else dataclasses.replace(full, run=dataclasses.replace(full.run, data=str(data)))


def _threads(full: FullConfig) -> None:
    torch.set_num_threads(full.run.compute.threads or os.cpu_count() or 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _plan(full: FullConfig) -> _Plan:
    run = full.run
    store = Store(run.data)
    domain = load_domain(store.header.domain)
    split = store.split("train")
    if len(split) < 2:
        raise ConfigError(f"{run.data}: split=train holds {len(split)} samples; pretraining needs 2 or more.")
    run = dataclasses.replace(run, backbone=run.backbone or domain.backbone)
    full = dataclasses.replace(full, run=run)
    labels = find_labels(store, run.labels)
    order = Order(len(split), run.seed, run.batch, slots=run.slots or None)
    spec = store.header.fields[store.primary]
    encoder = build_backbone(
        run.backbone, len(spec.channels), derive_key("encoder", run.seed) % 2**63, _initial_weights(run.init_from)
    )
    generator = torch.Generator().manual_seed(derive_key("heads", run.seed) % 2**63)
    method = load_method(run.method)(encoder, full.options, generator)
    losses = resolve(domain.label_loss)
    terms = [
        LabelTerm(labels_.name, losses(labels_.schema, len(labels_.classes)), method.features, generator)
        for labels_ in labels
    ]
    return _Plan(full, domain, store, labels, _fit_stats(store, domain), method, terms, order,
                 _device(run.compute.device))


def _initial_weights(init_from: str) -> Path | None:
    if not init_from:
        return None
    path = Path(init_from)
    if path.is_dir():
        folder.read_model(path)
        return path / folder.WEIGHTS
    return path


def _fit_stats(store: Store, domain: DomainSpec) -> InputStats:
    """Statistics of the first samples of split=train, which its keyed-hash order makes a random sample."""
    name = store.primary
    spec = store.header.fields[name]
    split = store.split("train")
    positions = np.unique(np.linspace(0, len(split) - 1, min(len(split), STATS_SAMPLES)).astype(np.int64))
    decoder = Decoder(store, domain.decode)
    images = (sample.fields[name] for i in split.to_store(positions) for sample in decoder(np.array([i])))
    return fit_stats(images, len(spec.channels), domain.stretch, spec.dtype)


def _recipe(plan: _Plan) -> Recipe:
    run = plan.config.run
    function = resolve(plan.domain.to_input)
    layout = torch.channels_last if run.compute.memory_format == "channels_last" else torch.contiguous_format
    peak = peak_learning_rate(run.optim.base_lr, run.batch)
    total = max(run.steps, 1)  # a probe runs before the length is known
    warmup = round(run.optim.warmup * total)
    return Recipe(
        total_steps=total,
        batch=run.batch,
        accumulate=run.accumulate,
        learning_rate=lambda step: warmup_cosine(step, warmup, total, peak),
        to_input=lambda x: function(x, plan.stats).contiguous(memory_format=layout),
        field=plan.store.primary,
        label_weight=run.label_weight,
        seed=run.seed,
        autocast=torch.bfloat16 if run.compute.precision == "bfloat16" else None,
    )


def _measured(plan: _Plan, tell: Callable[[str], None]) -> _Plan:
    """Settle what is `auto` and turn epochs or minutes into steps. Only a new run measures."""
    run = plan.config.run
    size = plan.config.views.size
    shape = (run.batch // run.accumulate, len(plan.stats.mean), size, size)
    choice = choose(plan.method.encoder, shape, run.compute.precision, run.compute.memory_format, plan.device)
    if choice.measured:
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in choice.measured.items())
        tell(f"chose {choice.precision}, {choice.memory_format} (images/s of the encoder: {rates})")
    compute = dataclasses.replace(
        run.compute, precision=choice.precision, memory_format=choice.memory_format, device=plan.device.type,
        threads=torch.get_num_threads(),
        workers=max(1, min(8, (os.cpu_count() or 1) - 1)) if run.compute.workers < 0 else run.compute.workers,
    )
    run = dataclasses.replace(run, compute=compute, slots=plan.order.slot_count)
    plan.config = dataclasses.replace(plan.config, run=run)
    steps = _steps(plan, tell)
    plan.config = dataclasses.replace(
        plan.config, run=dataclasses.replace(run, steps=steps, epochs=0.0, minutes=0.0)
    )
    return plan


def _steps(plan: _Plan, tell: Callable[[str], None]) -> int:
    run = plan.config.run
    if run.minutes:
        seconds = _seconds_per_step(plan)
        steps = max(1, int(run.minutes * 60 / seconds))
        tell(f"{steps} steps of {seconds:.2f} s fill {run.minutes:g} minutes ({steps / _per_epoch(plan):.1f} epochs)")
        return steps
    if run.epochs:
        return max(1, epochs_to_steps(1, round(run.epochs * plan.order.n), run.batch))
    if run.steps > 1:
        return run.steps
    raise ConfigError("the run has no length: give one of --epochs, --steps and --minutes, such as --minutes 10.")


def _per_epoch(plan: _Plan) -> float:
    return plan.order.steps_per_epoch


def _stream(plan: _Plan, start: int) -> BatchStream:
    store = plan.store
    return BatchStream(
        Decoder(store, plan.domain.decode), plan.order, store.split("train"), plan.domain.views, plan.config.views,
        {labels.name: labels.values for labels in plan.labels}, [store.primary], start_step=start,
    )


def _probe_step(plan: _Plan) -> Callable[[Batch], None]:
    """One step on copies: nothing of the run is touched."""
    method, terms = copy.deepcopy((plan.method, plan.terms))
    for module in (method, *terms):
        module.to(plan.device)
    optimizer = build_optimizer({"method": method, "terms": torch.nn.ModuleList(terms)}, plan.config.run.optim)
    recipe = _recipe(plan)
    run = plan.config.run

    def once(batch: Batch) -> None:
        size = max(len(batch) // run.accumulate, 2)
        parts = [batch.slice(start, start + size) for start in range(0, size * run.accumulate, size)]
        train_step(method, terms, optimizer, parts, dataclasses.replace(recipe, batch=len(batch)), 0)

    return once


def _seconds_per_step(plan: _Plan) -> float:
    """A step and its data, measured through the real loader: workers and trainer share the cores."""
    once = _probe_step(plan)
    loader = iter(make_loader(_stream(plan, 0), plan.config.run.compute.workers))
    for _ in range(6):  # start-up of workers, first windows, first allocations, and what was prefetched meanwhile
        once(next(loader))
    return best_time(lambda: [once(next(loader)) for _ in range(6)] and None, repeats=1) / 6


def _operations_per_image(plan: _Plan) -> float:
    """Floating-point operations of one source image in training, counted on a small batch."""
    from torch.utils.flop_counter import FlopCounterMode

    count = 2 * plan.config.run.accumulate
    batch = _stream(plan, 0).batch(0).slice(0, count)
    with FlopCounterMode(display=False) as counter:
        _probe_step(plan)(batch)
    return counter.get_total_flops() / count


def _estimate(plan: _Plan) -> RunEstimate:
    run = plan.config.run
    modules = [plan.method, *plan.terms]
    trained = sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
    frozen = sum(p.numel() for m in modules for p in m.parameters() if not p.requires_grad)
    copies = 3 if run.optim.name == "lars" else 4  # weight, gradient and one or two buffers of the optimiser
    return RunEstimate(
        steps=run.steps, seconds=_seconds_per_step(plan) * run.steps, parameters=trained,
        state_bytes=4 * (copies * trained + frozen), precision=run.compute.precision,
        memory_format=run.compute.memory_format, operations_per_image=_operations_per_image(plan),
    )


def _write_start(run: Path, plan: _Plan, settings: Mapping[str, Any]) -> None:
    (run / "overrides.txt").write_text("".join(f"{k}={v}\n" for k, v in settings.items()), encoding="utf-8")
    write_atomic(run / "environment.json", json.dumps(folder.environment(), indent=1).encode())
    cost = {"operations_per_image": _operations_per_image(plan), "wall_seconds": 0.0, "tuning_trials": 0}
    write_atomic(run / folder.COST, json.dumps(cost, indent=1).encode())
    # The config last: a folder with it is a run that can be resumed.
    save_config(plan.config, run / folder.CONFIG)


def _identity(plan: _Plan) -> dict[str, str]:
    run = plan.config.run
    return {
        "store": plan.store.digest,
        "tables": json.dumps(plan.store.table_digests() if plan.labels else {}, sort_keys=True),
        "backbone": run.backbone,
        "method": run.method,
        "method source": method_source_digest(run.method),
        "options": repr(plan.config.options),
        "views": repr(plan.config.views),
        "batch": f"{run.batch} in {run.slots} slots",
    }


def _train(run: Path, plan: _Plan, resume: bool, tell: Callable[[str], None]) -> RunResult:
    started = time.perf_counter()
    told: list[str] = []
    log = _log_file(run)

    def warn(text: str) -> None:
        told.append(text)
        log.warning(text)
        tell(f"warning: {text}")

    settings = plan.config.run
    module = Pretraining(plan.method, plan.terms, _recipe(plan), settings.optim, settings.log, run,
                         _identity(plan), warn)
    found = ckpt.latest_checkpoint(run) if resume else None
    taken = int(found[1]["sciencessl"]["taken"]) if found else 0
    if resume:
        tell(f"resuming after step {taken} of {settings.steps}" if found else "no checkpoint yet: starting over")
    if taken < settings.steps:
        _fit(module, plan, found[0] if found else None, taken)
    finished = module.taken >= settings.steps or taken >= settings.steps
    steps = max(module.taken, taken)
    seconds = time.perf_counter() - started
    _write_cost(run, plan, steps, seconds)
    if finished and module.taken:
        folder.write_model(run, _card(plan, steps), module.method.encoder)
    log.info(f"{'finished' if finished else 'stopped'} after step {steps}, {seconds:.0f} s")
    return RunResult(run, steps, steps * settings.batch, seconds, finished, tuple(told))


def _fit(module: Pretraining, plan: _Plan, checkpoint: Path | None, taken: int) -> None:
    from lightning.pytorch import Trainer

    settings = plan.config.run
    with warnings.catch_warnings():
        # Resuming mid-epoch with a plain iterable is what we do on purpose: the order needs no loader state.
        warnings.filterwarnings("ignore", message=".*resum.*|.*does not have many workers.*|.*num_workers.*|.*LeafSpec.*")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        trainer = Trainer(
            max_steps=settings.steps, accelerator=settings.compute.device, devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            plugins=[ckpt.AtomicCheckpointIO()], inference_mode=False, use_distributed_sampler=False,
        )
        layout = torch.channels_last if settings.compute.memory_format == "channels_last" else torch.contiguous_format
        module.method.to(memory_format=layout)  # type: ignore[call-overload]
        with stop_on_signal(module):
            loader = make_loader(_stream(plan, taken), settings.compute.workers)
            trainer.fit(module, loader, ckpt_path=checkpoint)
            if module.taken and not ckpt.checkpoint_path(module._run, module.taken).exists():
                module.save()


def _log_file(run: Path) -> logging.Logger:
    log = logging.Logger(f"sciencessl.run.{run.name}")
    handler = logging.FileHandler(run / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log


def _write_cost(run: Path, plan: _Plan, steps: int, seconds: float) -> None:
    path = run / folder.COST
    cost = json.loads(path.read_text(encoding="utf-8"))
    images = steps * plan.config.run.batch
    cost |= {
        "images_seen": images,
        "steps": steps,
        "device": plan.device.type,
        "wall_seconds": round(cost["wall_seconds"] + seconds, 1),
        "estimated_operations": cost["operations_per_image"] * images,
        "peak_memory_bytes": max(cost.get("peak_memory_bytes", 0), _peak_memory(plan.device)),
    }
    cost["device_hours"] = round(cost["wall_seconds"] / 3600, 4)
    write_atomic(path, json.dumps(cost, indent=1).encode())


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _card(plan: _Plan, steps: int) -> folder.ModelCard:
    run = plan.config.run
    store = plan.store
    return folder.ModelCard(
        domain=plan.domain.name,
        method=run.method,
        backbone=run.backbone,
        field=store.primary,
        channels=store.header.fields[store.primary].channels,
        features=plan.method.features,
        stats=plan.stats,
        views=plan.config.to_dict()["views"],
        steps=steps,
        images=steps * run.batch,
        seed=run.seed,
        store=str(run.data),
        store_digest=store.digest,
        table_digests=store.table_digests(),
        label_columns=tuple(column for labels in plan.labels for column in labels.columns),
        label_note="; ".join(labels.note for labels in plan.labels if labels.note),
        init_from=run.init_from,
    )
