"""Encoders that are no run of ours: stock architectures with weights of others, and tables of features."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from sciencessl.backbones.named_weights import NamedWeights, find_named, is_named
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import RegistryError, unknown_name
from sciencessl.evaluate.colour_histogram import COLOUR_HISTOGRAM, FEATURES
from sciencessl.evaluate.encoders import Encoder, frozen, run_encoder
from sciencessl.evaluate.feature_table import is_feature_table, read_feature_table
from sciencessl.registry import load_domain
from sciencessl.spec import InputStats
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.train.folder import ModelCard
from sciencessl.train.inputs import input_stats

BASELINE = "baseline:"
"""What names of features begin with that nothing was learned for."""


def find_encoder(run: str | Path, store: Store) -> Encoder:
    """What RUN means wherever a verb takes one.

    - a run folder: the encoder that it exported;
    - weights by name, `timm:NAME@FILE`, `timm:NAME.TAG`, `seer:SIZE`, `hub:OWNER/NAME` or `local-dir:FOLDER`
      (`named_weights.find_named`): a stock architecture, downloaded where it is not on this machine;
    - a table of features with ids (`feature_table.read_feature_table`): a Parquet or HDF5 file, or an `embed` folder;
    - `baseline:colour-histogram`: 16 bins a colour, with nothing learned (`colour_histogram.colour_histograms`).

    Weights by name and tables are `foreign`: what their training saw is not on record.

    Args:
        run: One of these.
        store: What is evaluated on; foreign weights take their input settings from its domain.

    Raises:
        RunError, DataError: When it is none of these, damaged, or does not fit.
        RegistryError: When timm has no such architecture or weights, or for another baseline.
        OutOfReachError: When weights are to be downloaded and the hub does not answer.
        MissingExtraError: For HDF5 without h5py.
    """
    if str(run).startswith(BASELINE):
        return _baseline_encoder(str(run), store)
    if is_named(run):
        return _named_encoder(find_named(str(run)), store)
    path = local_path(run, "RUN")
    return _table_encoder(path, store) if is_feature_table(path) else run_encoder(path)


def is_path(run: str | Path) -> bool:
    """Whether RUN is a file or folder, and not the name of something."""
    return not is_named(run) and not str(run).startswith(BASELINE)


def _named_encoder(weights: NamedWeights, store: Store) -> Encoder:
    """Views at the size that the weights were trained at; input statistics of the weights where stamps are RGB."""
    spec = store.header.fields[store.primary]
    module: Any = build_backbone(weights.backbone, len(spec.channels), 0, weights.file, size=weights.size)
    domain, settings = load_domain(store.header.domain), _view_settings(store, weights.size)
    card = replace(
        _card(store, "timm", int(module.num_features)), backbone=weights.backbone, views=asdict(settings),
        stats=weights.stats(spec) or input_stats(store, domain, settings), init_from=weights.source,
        license=weights.license, size=module.input_px,
    )
    encoder = Encoder(weights.name, card, frozen(module), "", foreign=True, source=weights.source)
    return replace(encoder, digest=digest(weights.file.read_bytes(), encoder.input.encode()))


def _view_settings(store: Store, size: int) -> Any:
    options = load_domain(store.header.domain).train_options
    return options(size=size) if any(option.name == "size" for option in fields(options)) else options()


def _table_encoder(path: Path, store: Store) -> Encoder:
    table = read_feature_table(path)
    card = _card(store, "features", table.values.shape[1])
    return Encoder(path.resolve().stem, card, nn.Identity(), table.digest, foreign=True, table=table)


def _baseline_encoder(name: str, store: Store) -> Encoder:
    if name != COLOUR_HISTOGRAM:
        raise RegistryError(unknown_name("baseline", name, [COLOUR_HISTOGRAM]))
    card = _card(store, COLOUR_HISTOGRAM, FEATURES)
    encoder = Encoder(COLOUR_HISTOGRAM.partition(":")[2], card, nn.Identity(), "", statistics=True)
    return replace(encoder, digest=digest(COLOUR_HISTOGRAM.encode(), encoder.input.encode()))


def _card(store: Store, method: str, features: int) -> ModelCard:
    return ModelCard(
        domain=store.header.domain, method=method, backbone="", field=store.primary,
        channels=store.header.fields[store.primary].channels, features=features, stats=InputStats((), (), ()), views={},
        steps=0, images=0, seed=0,
    )
