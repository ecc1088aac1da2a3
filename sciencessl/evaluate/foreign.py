"""Encoders that are no run of ours: stock architectures with weights of others, and tables of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from sciencessl.backbones.timm_backbones import build_backbone, check_backbone
from sciencessl.errors import DataError, RegistryError
from sciencessl.evaluate.encoders import Encoder, frozen, run_encoder
from sciencessl.evaluate.feature_table import is_feature_table, read_feature_table
from sciencessl.registry import load_domain
from sciencessl.spec import InputStats
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.train.folder import ModelCard
from sciencessl.train.plan import input_stats

TIMM = "timm:"


def find_encoder(run: str | Path, store: Store) -> Encoder:
    """What RUN means wherever a verb takes one.

    - a run folder: the encoder that it exported;
    - `timm:NAME@FILE`: a stock architecture with weights from a file, `timm:NAME` with those that an earlier download
      left in the local cache of Hugging Face; nothing is downloaded;
    - a table of features with ids (`feature_table.read_feature_table`): a Parquet or HDF5 file, or an `embed` folder.

    The last two are `foreign`: what their training saw is not on record.

    Args:
        run: One of these.
        store: What is evaluated on; foreign weights take their input settings from its domain.

    Raises:
        RunError, DataError: When it is none of these, damaged, or does not fit.
        RegistryError: When timm has no such architecture.
        MissingExtraError: For HDF5 without h5py.
    """
    if str(run).startswith(TIMM):
        return _timm_encoder(str(run).removeprefix(TIMM), store)
    path = local_path(run, "RUN")
    return _table_encoder(path, store) if is_feature_table(path) else run_encoder(path)


def _timm_encoder(spec: str, store: Store) -> Encoder:
    """Views at the size that the weights were trained at; input statistics of the weights where stamps are RGB."""
    name, _, file = spec.partition("@")
    backbone = name.partition(".")[0]
    check_backbone(backbone)
    config = _config(name)
    weights = Path(file) if file else _cached_weights(name, str(config["hf_hub_id"] or ""))
    channels = len(store.header.fields[store.primary].channels)
    module: Any = build_backbone(backbone, channels, 0, weights)
    settings = _view_settings(store, int(config["input_size"][-1]))
    card = _card(store, "timm", int(module.num_features))
    card = replace(card, backbone=backbone, stats=_stats(store, settings, config), views=asdict(settings),
                   init_from=f"{TIMM}{spec}")
    title = f"{name}@{weights.stem}" if file else name
    encoder = Encoder(title, card, frozen(module), "", foreign=True, source=f"{TIMM}{spec}")
    return replace(encoder, digest=digest(weights.read_bytes(), encoder.input.encode()))


def _config(name: str) -> dict[str, Any]:
    """What timm knows of the weights of that name: input size, mean and deviation in [0, 1], where to find them."""
    try:
        found = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:
        raise RegistryError(f"{TIMM}{name}: {error} Leave the part after the dot out, or correct it.") from error
    return dict(vars(found))


def _view_settings(store: Store, size: int) -> Any:
    options = load_domain(store.header.domain).train_options
    return options(size=size) if any(option.name == "size" for option in fields(options)) else options()


def _stats(store: Store, settings: Any, config: Mapping[str, Any]) -> InputStats:
    spec = store.header.fields[store.primary]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if spec.dtype == "uint8" and len(spec.channels) == len(mean):
        return InputStats(mean, std, (255.0,) * len(mean))
    return input_stats(store, load_domain(store.header.domain), settings)


def _cached_weights(name: str, repository: str) -> Path:
    """The weight file that an earlier download of timm left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file) if repository else None
        if isinstance(found, str):
            return Path(found)
    raise DataError(
        f"{TIMM}{name}: no weights of it are on this machine, and nothing is downloaded here. Give them as a file, "
        f"{TIMM}{name}@FILE; random weights are the arm 'random'."
    )


def _table_encoder(path: Path, store: Store) -> Encoder:
    table = read_feature_table(path)
    card = _card(store, "features", table.values.shape[1])
    return Encoder(path.resolve().stem, card, nn.Identity(), table.digest, foreign=True, table=table)


def _card(store: Store, method: str, features: int) -> ModelCard:
    return ModelCard(
        domain=store.header.domain, method=method, backbone="", field=store.primary,
        channels=store.header.fields[store.primary].channels, features=features, stats=InputStats((), (), ()), views={},
        steps=0, images=0, seed=0,
    )
