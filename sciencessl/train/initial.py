"""What a run's encoder starts from: a run, a weight file, or weights of others by name; and the record of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sciencessl.backbones.licenses import license_words
from sciencessl.errors import ConfigError
from sciencessl.setting_groups import Norm
from sciencessl.spec import FieldSpec, InputStats
from sciencessl.store.files import write_atomic
from sciencessl.store.format import digest
from sciencessl.store.remote import local_path
from sciencessl.train.folder import WEIGHTS, read_model

RECORD = "initial_weights.json"


@dataclass(frozen=True)
class InitialWeights:
    """Weights that an encoder starts from.

    Attributes:
        source: The setting `init_from`.
        file: Where they lie on this machine.
        stats: The input that they were trained with, where that is known and the store can give it; then the run's.
        license: Its name, where it has one; it holds for the run too.
        digest: Of the file, once it is recorded.
    """

    source: str
    file: Path
    stats: InputStats | None = None
    license: str = ""
    digest: str = ""


def find_initial(init_from: str, backbone: str, norm: Norm, field: FieldSpec) -> InitialWeights | None:
    """What `init_from` names, if anything: a run folder, a weight file, or a name as `named_weights.find_named` takes.

    Named weights bring their own input statistics, so that the first step sees images as they did; runs and files do
    not: a run on another survey has statistics of its own.

    Args:
        init_from: The setting; empty for a fresh encoder.
        backbone: Of the run.
        norm: Of the run.
        field: That the encoder will see.

    Raises:
        ConfigError: When they are of another backbone, norm or channels.
        RunError: When a folder holds no finished run.
        RegistryError, DataError, OutOfReachError: As `named_weights.find_named`.
    """
    # Here, because loader workers import what the caller's script imports, and need no timm.
    from sciencessl.backbones.named_weights import find_named, is_named

    if not init_from:
        return None
    if is_named(init_from):
        weights = find_named(
            init_from, lambda found: _check(init_from, "these are weights of", "backbone", found, backbone)
        )
        return InitialWeights(init_from, weights.file, weights.stats(field), weights.license)
    path = local_path(init_from, "--init-from")
    if not path.is_dir():
        return InitialWeights(init_from, path)
    card = read_model(path)
    _check(init_from, "that run trained", "backbone", card.backbone, backbone)
    _check(init_from, "that run had", "norm", card.norm, norm)
    _check_channels(init_from, card.channels, field.channels)
    return InitialWeights(init_from, path / WEIGHTS, license=card.license)


def _check(init_from: str, words: str, name: str, found: str, wanted: str) -> None:
    if found != wanted:
        verb = "train" if name == "backbone" else "have"
        raise ConfigError(
            f"--init-from {init_from}: {words} {name} {found!r}, and this one would {verb} {wanted!r}. "
            f"Pass --{name} {found}, or start from something else."
        )


def _check_channels(init_from: str, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """As many channels are taken in their order, whatever they are called; three are adapted to any number."""
    if len(found) not in (3, len(wanted)):
        raise ConfigError(
            f"--init-from {init_from}: that run saw {len(found)} channels ({', '.join(found)}), and this store has "
            f"{len(wanted)} ({', '.join(wanted)}). Only a first layer of three channels is adapted to other numbers; "
            "prepare a store with as many bands, or start from a run on three."
        )


def initial_words(initial: InitialWeights | None) -> list[str]:
    """What to tell of the weights that a run starts from: their terms, and whose statistics the input has."""
    if initial is None:
        return []
    terms = license_words(initial.license)
    lines = [f"{initial.source}: {terms}"] if terms else []
    return lines + ([f"input has the mean and deviation of {initial.source}"] if initial.stats else [])


def save_initial(run: Path, initial: InitialWeights) -> None:
    """Record in a run folder what it starts from, with the digest of the file."""
    values = {**asdict(initial), "file": str(initial.file), "digest": digest(initial.file.read_bytes())}
    write_atomic(run / RECORD, json.dumps(values, indent=1).encode())


def read_initial(run: Path) -> InitialWeights | None:
    """What a run was begun from; None where nothing is on record. The file itself may be gone by now."""
    path = run / RECORD
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    known: dict[str, Any] = values["stats"] or {}
    known = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
    return InitialWeights(**{**values, "file": Path(values["file"]), "stats": InputStats(**known) if known else None})
