"""What is decided before the first step: data, labels, model, order, and what a checkpoint must agree with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sciencessl.backbones.norms import start_from_data
from sciencessl.config import FullConfig, RunConfig
from sciencessl.data.decode import WORTH_PIXELS
from sciencessl.data.loader import BatchStream, Decoder
from sciencessl.data.order import SampleOrder, derive_key
from sciencessl.data.phases import Phases, make_phases, read_phases
from sciencessl.machine import keep_freed_memory
from sciencessl.methods.base import Method
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARC, LARS
from sciencessl.optim.schedules import warmup_cosine
from sciencessl.registry import load_domain, load_method, method_source_digest, resolve
from sciencessl.samples import Batch
from sciencessl.setting_groups import OptimConfig
from sciencessl.spec import DomainSpec, InputStats
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.tables import REMOVALS
from sciencessl.train import folder
from sciencessl.train.initial import InitialWeights, find_initial
from sciencessl.train.inputs import input_stats
from sciencessl.train.labels import LabelSet, find_labels, find_probes
from sciencessl.train.parallel import device_of, wrap
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.sampling import Sampling, check_stores, make_sampling
from sciencessl.train.sampling_words import sampling_words
from sciencessl.train.step import LabelTerm, Network, Recipe, Wrapped, step_randomness

WITH_VALUES = nullcontext()


@dataclass
class Plan:
    """Everything that a run knows before its first step.

    Attributes:
        config: Settings; `estimate.settle` replaces what is `auto`.
        domain: Of the store.
        store: What is trained on.
        tables: For each store, digests of all its tables, as they were when the labels were read.
        labels: One entry a label term.
        stats: Input statistics.
        method: The method, initialised, on the CPU.
        terms: Label terms, initialised, on the CPU.
        sampling: How the samples of split=train are drawn.
        device: Where this process trains it.
        ranks: The processes that train it together.
        leak: What an audit found the splits of the store to share, where that was accepted.
        probes: What online probes are scored by.
        supervised: Images/s of the encoder alone, forward and backward; set by `estimate.settle` where it measures
            them at the shape of a step, and a sample has as many views as the method needs.
        initial: What the encoder starts from, where it is not fresh.
    """

    config: FullConfig
    domain: DomainSpec
    store: JoinedStores
    tables: list[dict[str, str]]
    labels: list[LabelSet]
    stats: InputStats
    method: Method
    terms: list[LabelTerm]
    sampling: Sampling
    device: torch.device
    ranks: Ranks = ALONE
    leak: str = ""
    probes: list[LabelSet] = dataclasses.field(default_factory=list)
    supervised: float = 0.0
    initial: InitialWeights | None = None

    @property
    def order(self) -> SampleOrder:
        """Which sample stands where in every global batch."""
        return self.sampling.order

    @property
    def phases(self) -> Phases:
        """How many of these batches each step takes."""
        return make_phases(self.config.run.phases, self.config.run.batch, self.order.length)

    def images(self, steps: int) -> int:
        """Samples that the first steps of the run take."""
        return self.phases.before(steps) * self.config.run.batch


def make_plan(
    full: FullConfig,
    continued: bool = False,
    ranks: Ranks = ALONE,
    device: torch.device | None = None,
    initial: InitialWeights | None = None,
    within: AbstractContextManager[Any] = WITH_VALUES,
) -> Plan:
    """Read what the settings name and build what they describe: the same on every rank. Writes nothing.

    Args:
        full: Settings.
        continued: Weights will come from a checkpoint: what the run once started from is not needed again.
        ranks: The processes of the run.
        device: Of this process; None: as the settings say.
        initial: What a continued run has on record of that.
        within: What the method is built in, such as `memory.built_without_storage`.

    Raises:
        ConfigError: When there is too little data or a label is not found.
        StoreError: When the store is missing or unsealed.
        DataError: When the weights to start from do not fit.
        OutOfReachError: When they are to be downloaded and nobody answers.
    """
    run = full.run
    store = JoinedStores([Store(path) for path in run.data])
    domain = load_domain(store.header.domain)
    check_stores(store)
    run = dataclasses.replace(run, backbone=run.backbone or domain.backbone)
    tables = [part.table_digests() for part in store.stores]
    labels = find_labels(store, run.labels)
    sampling = make_sampling(store, labels, run)
    generator = torch.Generator().manual_seed(derive_key("heads", run.seed) % 2**63)
    field = store.header.fields[store.primary]
    initial = initial if continued else find_initial(run.init_from, run.backbone, run.norm, field)
    weights = initial.file if initial and not continued else None
    with within:
        method = load_method(run.method)(_encoder(store, full, run, weights), full.options, generator)
        for batch in (run.batch, *(size for _, size in read_phases(run.phases, run.batch)), run.batch):
            method.at_batch(batch)  # refuses what cannot be scaled
    losses = resolve(domain.label_loss)
    terms = [LabelTerm(x.name, losses(x.schema, len(x.classes)), method.features, generator) for x in labels]
    stats = (initial and initial.stats) or input_stats(store, domain, full.views)
    plan = Plan(dataclasses.replace(full, run=run), domain, store, tables, labels, stats, method, terms, sampling,
                device or device_of(run.compute.device), ranks, probes=find_probes(store, run.probes),
                initial=initial)
    if not continued:
        shapes = [view[store.primary].shape[1:] for view in sample_batch(plan, 1).views]
        method.check_views(shapes)
        _check_encoder(method.encoder, run.backbone, shapes)
        if run.norm == "none":
            _start_from_data(plan)
    return plan


def _encoder(store: JoinedStores, full: FullConfig, run: RunConfig, weights: Path | None) -> nn.Module:
    """The online encoder, for the views' size where its architecture has one, with the method's stochastic depth."""
    # Here, because loader workers import what the caller's script imports, and need no timm.
    from sciencessl.backbones.timm_backbones import build_backbone, switch_on

    channels = len(store.header.fields[store.primary].channels)
    encoder = build_backbone(
        run.backbone, channels, derive_key("encoder", run.seed) % 2**63, weights, run.norm,
        size=getattr(full.views, "size", 0), drop_path=getattr(full.options, "drop_path", 0.0),
    )
    return switch_on(encoder, most=0.0) if run.branches_on and not weights else encoder


def _check_encoder(encoder: nn.Module, name: str, shapes: Sequence[Sequence[int]]) -> None:
    from sciencessl.backbones.input_sizes import check_shapes

    check_shapes(encoder, name, shapes)


def _start_from_data(plan: Plan) -> None:
    """Set scales and shifts of a network without norms on the first micro-batch, target and online network alike."""
    run, method, recipe = plan.config.run, plan.method.to(plan.device), make_recipe(plan)
    batch = sample_batch(plan, run.batch // run.accumulate)
    views = [recipe.to_input(view[recipe.field].to(plan.device)) for view in batch.views]
    with step_randomness(run.seed, 0, plan.device):
        start_from_data(method, lambda: (method.online(views), method.target(views)))
    method.to("cpu")


def make_recipe(plan: Plan) -> Recipe:
    """What the step needs of the settings."""
    run = plan.config.run
    function = resolve(plan.domain.to_input)
    layout = memory_layout(run.compute.memory_format)
    phases, steps = plan.phases, max(run.steps, 1)  # a probe runs before the length is known
    total = phases.before(steps)
    warmup = round(run.optim.warmup * total)

    def learning_rate(step: int) -> float:
        peak = run.optim.at_batch(run.batch * phases.factor(step)).learning_rate
        return warmup_cosine(phases.before(step), warmup, total, peak, run.optim.final)

    return Recipe(
        total_steps=steps,
        batch=run.batch,
        accumulate=run.accumulate,
        learning_rate=learning_rate,
        # Laid out twice: first while a value is a byte, then in case the function changed it.
        to_input=lambda x: function(x.contiguous(memory_format=layout), plan.stats).contiguous(memory_format=layout),
        field=plan.store.primary,
        label_weight=run.label_weight,
        seed=run.seed,
        autocast=torch.bfloat16 if run.compute.precision == "bfloat16" else None,
        phases=phases,
        at_batch=run.optim.at_batch,
    )


def memory_layout(name: str) -> torch.memory_format:
    """Torch's name of a memory format; `auto` is contiguous."""
    return torch.channels_last if name == "channels_last" else torch.contiguous_format


def build_optimizer(modules: dict[str, nn.Module], settings: OptimConfig, batch: int) -> torch.optim.Optimizer:
    """LARS as in the BYOL paper, LARC as in SEER, or AdamW.

    With LARS and AdamW biases and norms have no decay, and LARS doesn't scale their updates. With LARC nothing is
    excluded, as in VISSL's settings of SEER (`regularize_bn` and `regularize_bias` on, or one group for all).

    Args:
        modules: What is trained, under names.
        settings: Of the optimiser.
        batch: Samples of a step; what the settings scale with it is scaled.
    """
    scaled = settings.at_batch(batch)
    groups = parameter_groups(modules, scaled.weight_decay)
    if settings.name == "lars":
        return LARS(groups, lr=scaled.learning_rate, momentum=settings.momentum)
    if settings.name == "larc":
        everything = [{**group, "adapt": True, "weight_decay": scaled.weight_decay} for group in groups]
        return LARC(everything, lr=scaled.learning_rate, momentum=settings.momentum)
    for group in groups:
        group.pop("adapt")
    return torch.optim.AdamW(groups, lr=scaled.learning_rate, betas=scaled.betas, eps=scaled.eps, fused=True)


def build(
    method: Method, terms: Sequence[LabelTerm], plan: Plan, ranks: Ranks
) -> tuple[Wrapped, torch.optim.Optimizer]:
    """Lay modules of a plan out for its device, its memory format and some ranks, and make their optimiser.

    Args:
        method: That of the plan, or a copy; changed in place.
        terms: As `method`.
        plan: Settled.
        ranks: Those that train together.
    """
    run = plan.config.run
    network = Network(method, terms, make_recipe(plan))
    method.to(memory_format=memory_layout(run.compute.memory_format))
    if plan.device.type == "cpu":
        keep_freed_memory()
    wrapped = wrap(network, run.compute, ranks, plan.device)
    return wrapped, build_optimizer({"method": method, "terms": network.terms}, run.optim, run.batch)


def make_stream(plan: Plan, start: int) -> BatchStream:
    """This rank's batches of the run from a step on."""
    store = plan.store
    return BatchStream(
        Decoder(store, plan.domain.decode), plan.order, store.split("train"), plan.domain.views, plan.config.views,
        {labels.name: labels.values for labels in (*plan.labels, *plan.probes)}, [store.primary], start,
        rank=plan.ranks.rank, world=plan.ranks.world, phases=plan.phases,
    )


def sample_batch(plan: Plan, count: int) -> Batch:
    """The first samples of split=train as a batch: what shapes and costs are read from."""
    split = plan.store.split("train")
    index = split.to_store(np.arange(count) % len(split))
    return make_stream(plan, 0).make(index, np.zeros(count, np.int64))


def make_state(plan: Plan, step: int) -> list[dict[str, Any]]:
    """The state of the loader before a step, of plain values: for each part of the order, which it takes samples from.

    Returns:
        `stores`, the digests of the stores of the part; `tables`, for each of them, digests of the tables that were
        read; `samples`, how many the part has given.
    """
    drawn = plan.sampling.column
    used = [found.tables for found in (*plan.labels, *plan.probes)] + ([drawn.tables] if drawn else [])
    read = [
        {name: plan.tables[k][name] for name in sorted({name for tables in used for name in tables[k]})}
        for k in range(len(plan.store.stores))
    ]
    digests = list(plan.store.digests)
    by_store = bool(plan.config.run.sampling.rates)
    own = [slice(k, k + 1) if by_store else slice(None) for k in range(len(plan.sampling.parts))]
    return [
        {"stores": digests[part], "tables": read[part], "samples": taken}
        for part, taken in zip(own, plan.sampling.taken(plan.phases.before(step)), strict=True)
    ]


def make_identity(plan: Plan) -> dict[str, str]:
    """What a checkpoint must agree with to be continued, beside `make_state`, in words that an error can print."""
    run = plan.config.run
    return {
        "withdrawn samples": ", ".join(tables.get(REMOVALS, "none") for tables in plan.tables),
        "sampling": plan.sampling.identity(),
        "labels": ", ".join(run.labels),
        "backbone": run.backbone + (f" with norm {run.norm}" if run.norm != "batch" else ""),
        "method": run.method,
        "method source": method_source_digest(run.method),
        "options": repr(plan.config.options),
        "views": repr(plan.config.views),
        "decoding": _decoding(plan),
        "input statistics": repr(plan.stats),
        "optimiser": repr(run.optim),
        "label weight": repr(run.label_weight),
        "seed": str(run.seed),
        "length": f"{run.steps} steps",
        "batch": f"{run.batch} in {run.slots} slots and {run.accumulate} micro-batches"
        + "".join(f", {phase}" for phase in run.phases),
        "precision": f"{run.compute.precision}, {run.compute.memory_format}",
        "batch statistics": _statistics(plan),
    }


def _statistics(plan: Plan) -> str:
    """What they are computed over: for all ranks together it does not matter how many there are."""
    own = plan.config.run.compute.sync_bn_ranks
    parts = plan.ranks.world // own if own else 1
    return f"of {parts} parts of a micro-batch" if parts > 1 else "of whole micro-batches"


def _decoding(plan: Plan) -> str:
    least = [getattr(view, "least_px", {}) for view in plan.domain.views(plan.config.views)]
    return (
        f"{plan.domain.decode}, JPEGs from {WORTH_PIXELS} pixels on for {least[0]} px in training and {least[1]} px in "
        "evaluation"
    )


def make_card(plan: Plan, steps: int) -> folder.ModelCard:
    """The card of the exported encoder.

    A column that decided how often samples came is among the label columns: pretraining saw what it says of them.
    """
    run, store = plan.config.run, plan.store
    columns = [column for labels in plan.labels for column in labels.columns]
    notes, rows = [labels.note for labels in plan.labels], {}
    if drawn := plan.sampling.column:
        columns, notes, rows = [*columns, drawn.name], [*notes, drawn.note], {drawn.name: int(drawn.known.sum())}
    rows |= {name: count for labels in plan.labels for name, count in labels.rows_of().items()}
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
        images=plan.images(steps),
        seed=run.seed,
        stores=tuple(folder.StoreRecord(*found) for found in zip(run.data, store.digests, plan.tables, strict=True)),
        label_columns=tuple(dict.fromkeys(columns)),
        label_note="; ".join(dict.fromkeys(filter(None, notes))),
        label_rows=rows,
        init_from=run.init_from,
        sampling=sampling_words(plan.sampling, plan.store)[0] if plan.sampling.changed else "",
        leak=plan.leak,
        norm=run.norm,
        probe_columns=tuple(dict.fromkeys(x for labels in plan.probes for x in labels.columns if x not in columns)),
        license=plan.initial.license if plan.initial else "",
        # A head of labels reads what the online encoder makes of an image.
        module="encoder" if plan.terms else plan.method.exports,
        size=int(getattr(plan.method.encoder, "input_px", 0)),
    )
