"""`pretrain`: from a sealed store to a run folder with an exported encoder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from sciencessl.config import FullConfig, Stores, build_config, load_config, save_config, store_paths
from sciencessl.data.loader import start_server
from sciencessl.errors import ConfigError, RunError, StoreError
from sciencessl.layers import chosen_method, preset_layers
from sciencessl.monitor.logs import check_loggers
from sciencessl.registry import load_domain, load_method
from sciencessl.spec import DomainSpec
from sciencessl.store.audited import ACCEPTED, check_audit
from sciencessl.store.files import write_atomic
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.train import checkpoint as ckpt
from sciencessl.train import folder
from sciencessl.train.cost import add_cost, begin_cost
from sciencessl.train.estimate import check_length, operations_per_image, settle
from sciencessl.train.forecast import RunEstimate, estimate
from sciencessl.train.initial import initial_words, read_initial, save_initial
from sciencessl.train.parallel import full_state, joined, shared_slots
from sciencessl.train.plan import Plan, build, make_card, make_identity, make_plan, make_state
from sciencessl.train.ranks import Ranks, others_needed
from sciencessl.train.sampling_words import sampling_words, tell_sampling
from sciencessl.train.vote_head import joint_head, write_vote_head

DEFAULT_METHOD = "byol"
DEFAULT_SCALE = "laptop"
CHANGEABLE = (
    "compute.device", "compute.threads", "compute.workers", "compute.strategy", "compute.checkpointing",
    "compute.compile", "log.every", "log.monitor_every", "log.checkpoint_every", "log.keep_checkpoints",
    "log.loggers",
)
"""Settings that a run may be continued with others of: where and how it is computed, not what."""

__all__ = ["DEFAULT_METHOD", "DEFAULT_SCALE", "RunEstimate", "RunResult", "pretrain"]

Found = tuple[Path, dict[str, Any]]
"""A checkpoint and its content."""


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


def pretrain(
    data: Stores = "",
    out: str | Path = "",
    method: str = "",
    scale: str = DEFAULT_SCALE,
    config: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    tell: Callable[[str], None] = print,
    accept_leak: bool = False,
    processes: int = 0,
) -> RunResult | RunEstimate:
    """Pretrain an encoder on split=train of a store, or of several.

    Args:
        data: The store or stores; with `resume` they may be left out.
        out: Run folder.
        method: Name, or FILE.py:NAME; empty means the one that a file of `config` names, or else BYOL.
        scale: Shipped scale preset.
        config: YAML files, or `recipe/NAME`; later ones win.
        settings: Dotted setting -> value; wins over files.
        resume: Continue the run in `out` exactly where its last checkpoint stands.
        overwrite: Delete the run in `out` first.
        dry_run: Measure and estimate; write nothing.
        tell: Receives lines for people.
        accept_leak: Train on a store whose audit found that its splits share samples, and say so in the run; a run that
            has begun goes on without it.
        processes: With `dry_run`, how many to count the memory for; 0 shows several.

    Returns:
        A `RunResult`, or a `RunEstimate` with `dry_run`.

    Raises:
        ConfigError: For a setting that does not exist or breaks its rule.
        StoreError: When the store is missing, unsealed or damaged.
        DataError: When the weights to start from do not fit.
        LeakError: When the store's audit found a leak.
        RunError: When the folder is in use, a checkpoint does not fit, the loss is no number, or a loader process died.
    """
    run = local_path(out)
    full = requested(data, out, method, scale, config, settings, resume, overwrite, dry_run)
    with joined(shared_slots(full.run), full.run.compute.device, tell) as place, contextlib.ExitStack() as held:
        if place is None:
            return RunResult(run, 0, 0, 0.0, finished=True)
        ranks, device = place
        tell = tell if ranks.first else _silent
        if full.run.compute.workers:
            start_server()
        leak = _told_leaks(full, accept_leak, resume, tell)
        with _threads(full.run.compute.threads):
            if resume:
                ranks.from_first(lambda: held.enter_context(folder.occupied(run)))
                return _continue(run, full, leak, tell, ranks, device)
            if dry_run:
                return estimate(full, ranks, device, tell, processes)
            plan = dataclasses.replace(make_plan(full, ranks=ranks, device=device), leak=leak)
            tell_sampling(plan.sampling, plan.store, tell)
            for line in initial_words(plan.initial):
                tell(line)
            ranks.from_first(lambda: folder.begin(run, overwrite))
            ranks.from_first(lambda: held.enter_context(folder.occupied(run)))
            settle(plan, tell)
            ranks.from_first(lambda: _write_start(run, plan, settings or {}))
            return _train(run, plan, None, tell)


def requested(
    data: Stores, out: str | Path, method: str, scale: str, config: Sequence[str | Path],
    settings: Mapping[str, Any] | None, resume: bool, overwrite: bool, dry_run: bool,
) -> FullConfig:
    """The settings of the run that is asked for; what can be refused without reading much data is.

    Args and errors are those of `pretrain`.
    """
    _check_request(out, resume, overwrite, dry_run)
    if resume:
        full = _resumed(local_path(out), data, _given(method, scale, config, settings))
    else:
        full = fresh_settings(domain_of(data), data, method, scale, config, settings or {})
        check_length(full.run)
    check_loggers(full.run.log.loggers)
    return full


def _silent(line: str) -> None:
    pass


def _told_leaks(full: FullConfig, accept: bool, resume: bool, tell: Callable[[str], None]) -> str:
    """Tell what the audits of the stores say; the leak that was accepted, in words."""
    standings = [check_audit(Store(path), accept=accept or resume) for path in full.run.data]
    for standing in standings:
        if standing.leak or not resume:  # the rest was told when the run began
            for line in standing.lines:
                tell(line)
    return "; ".join(standing.leak for standing in standings if standing.leak)


def _check_request(out: str | Path, resume: bool, overwrite: bool, dry_run: bool) -> None:
    if not str(out) and not dry_run:
        raise ConfigError("--out is missing: name the run folder to write.")
    if resume and (overwrite or dry_run):
        other = "--overwrite" if overwrite else "--dry-run"
        raise ConfigError(f"--resume continues a run that exists, {other} starts from nothing; give one of the two.")


def _given(
    method: str, scale: str, config: Sequence[str | Path], settings: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What was asked for beside `--resume`."""
    wanted = {"method": (method, ""), "scale": (scale, DEFAULT_SCALE), "config": (tuple(config), ())}
    return {name: value for name, (value, default) in wanted.items() if value != default} | dict(settings or {})


def fresh_settings(
    domain: DomainSpec, data: Stores, method: str, scale: str, config: Sequence[str | Path],
    settings: Mapping[str, Any],
) -> FullConfig:
    """The settings of a new run, from all layers.

    Args:
        domain: Of the stores.
        data: The store or stores, which are not opened.
        method: As in `pretrain`, like all that follow.
        scale: As in `pretrain`.
        config: As in `pretrain`.
        settings: As in `pretrain`.

    Raises:
        ConfigError: For a setting that does not exist or breaks its rule.
        RegistryError: For an unknown method.
    """
    flags = {**settings, "data": list(store_paths(data)), **({"method": method} if method else {})}
    name = method or chosen_method(config, DEFAULT_METHOD)
    layers = preset_layers(scale, name, domain.name, config)
    return build_config(layers, load_method(name).Options, domain.train_options, flags)


def domain_of(data: Stores) -> DomainSpec:
    """The domain of a store, or of the first of several.

    Raises:
        StoreError: When there is no sealed store.
        RegistryError: When its domain is not installed.
    """
    return load_domain(Store(next(iter(store_paths(data)), "")).header.domain)


def _resumed(run: Path, data: Stores, given: Mapping[str, Any]) -> FullConfig:
    """The settings of the run as they were; nothing may be changed on the way."""
    path = run / folder.CONFIG
    if not path.is_file():
        raise RunError(f"--resume: {run} holds no run ({folder.CONFIG} is missing). Start it without --resume.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = [name for name, value in given.items() if name != "method" or value != values["method"]]
    fixed = [name for name in changed if name not in CHANGEABLE]
    if fixed:
        raise ConfigError(
            f"--resume continues {run} with its own settings; got {', '.join(fixed)} as well. Leave them out, or "
            f"start a new run from its weights with --init-from. Only {', '.join(CHANGEABLE)} may change."
        )
    try:
        domain = domain_of(data or values["data"])
    except StoreError as error:
        raise StoreError(f"--resume: {error} If the run's store has moved, say where with --data.") from error
    changes = {name: given[name] for name in changed}
    full = load_config(path, load_method(values["method"]).Options, domain.train_options, changes)
    moved = store_paths(data)
    if moved and len(moved) != len(full.run.data):
        raise ConfigError(
            f"--resume: {run} learns from {', '.join(full.run.data)}; --data names {len(moved)} stores, expected "
            f"{len(full.run.data)} in the same order."
        )
    return full if not moved else dataclasses.replace(full, run=dataclasses.replace(full.run, data=moved))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Torch's threads for the run; 0 leaves its own choice."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_start(run: Path, plan: Plan, settings: Mapping[str, Any]) -> None:
    begin_cost(run, operations_per_image(plan), plan.order.length, sampling_words(plan.sampling, plan.store),
               plan.supervised)
    (run / folder.OVERRIDES).write_text("".join(f"{k}={v}\n" for k, v in settings.items()), encoding="utf-8")
    if plan.initial:
        save_initial(run, plan.initial)
    write_atomic(run / "environment.json", json.dumps(folder.environment(), indent=1).encode())
    # The config last: a folder with it is a run that can be resumed.
    save_config(plan.config, run / folder.CONFIG)


def _continue(
    run: Path, full: FullConfig, leak: str, tell: Callable[[str], None], ranks: Ranks, device: torch.device
) -> RunResult:
    found = ranks.from_first(lambda: ckpt.latest_checkpoint(run, tell))
    plan = dataclasses.replace(make_plan(full, found is not None, ranks, device, read_initial(run)), leak=leak)
    if found is None:
        tell("no checkpoint yet: starting over")
    else:
        ckpt.check_loader(*found, make_state(plan, ckpt.steps_taken(found[1])))
        ckpt.check_identity(*found, make_identity(plan))
        former = found[1]["world"]
        now = f", with {ranks.world} processes after {former}" if former != ranks.world else ""
        tell(f"resuming after step {ckpt.steps_taken(found[1])} of {full.run.steps}{now}")
    return _train(run, plan, found, tell)


def _train(run: Path, plan: Plan, found: Found | None, tell: Callable[[str], None]) -> RunResult:
    # Here, because loader workers import what the caller's script imports, and need no Lightning.
    from sciencessl.monitor.probes import Probes
    from sciencessl.train.module import Pretraining, fit

    started = time.perf_counter()
    told: list[str] = []
    settings, ranks = plan.config.run, plan.ranks
    identity = make_identity(plan)

    def about(step: int) -> dict[str, Any]:
        return {"identity": identity, "loader": make_state(plan, step), "strategy": settings.compute.strategy}

    with _log_file(run, ranks.first) as log:

        def warn(text: str) -> None:
            told.append(text)
            log.warning(text)
            tell(f"warning: {text}")

        if plan.leak:
            log.warning(f"{ACCEPTED}: {plan.leak}")
        module = Pretraining(*build(plan.method, plan.terms, plan, ranks), settings.log, run, about, warn,
                             Probes(plan.probes, plan.method.features) if plan.probes else None)
        if found:
            module.restore(*found)
        for line in [*sampling_words(plan.sampling, plan.store), *_ranks_words(plan)]:
            log.info(line)
        try:
            if module.taken < settings.steps:
                with others_needed():
                    fit(module, plan)
        except Exception as error:
            log.error(f"failed after step {module.taken}: {error}")
            raise
        finally:
            seconds = time.perf_counter() - started
            if ranks.first:
                add_cost(run, plan.device, plan.images(module.taken), module.taken, seconds, ranks.world)
        finished = module.taken >= settings.steps
        if finished:
            _export(run, plan)
        log.info(f"{'finished' if finished else 'stopped'} after step {module.taken}, {seconds:.0f} s")
    return RunResult(run, module.taken, plan.images(module.taken), seconds, finished, tuple(told))


def _ranks_words(plan: Plan) -> list[str]:
    compute, world = plan.config.run.compute, plan.ranks.world
    if world == 1:
        return []
    return [f"{world} processes, {'fsdp' if compute.strategy == 'fsdp' else 'ddp'}, each with "
            f"{plan.config.run.batch // world} of {plan.config.run.batch} samples"]


def _export(run: Path, plan: Plan) -> None:
    """Write encoder and vote head of a finished run, also where it ended between its last checkpoint and this."""
    card = make_card(plan, plan.config.run.steps)
    state, head = full_state(plan.method.get_submodule(card.module)), joint_head(plan)
    if head is not None:
        plan.ranks.from_first(lambda: write_vote_head(run, head))
    plan.ranks.from_first(lambda: folder.write_model(run, card, state))


@contextlib.contextmanager
def _log_file(run: Path, first: bool) -> Iterator[logging.Logger]:
    """`train.log`, which the first rank writes."""
    log = logging.Logger(f"sciencessl.run.{run.name}")
    if not first:
        log.addHandler(logging.NullHandler())
        yield log
        return
    handler = logging.FileHandler(run / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()
