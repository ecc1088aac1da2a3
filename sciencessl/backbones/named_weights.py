"""Weights of others by name: timm's tags, SEER by its size, a model on the Hugging Face Hub, or a folder of one.

Safetensors only, so that nothing from a stranger is unpickled. Files are kept where huggingface_hub keeps them, and one
that is there is used without asking the network. None is part of this project: each keeps its own licence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import yaml

from sciencessl.backbones.timm_backbones import check_backbone
from sciencessl.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    OutOfReachError,
    RegistryError,
    unknown_name,
)
from sciencessl.spec import FieldSpec, InputStats
from sciencessl.store.remote import first_line

TIMM, HUB, SEER, FOLDER = "timm:", "hub:", "seer:", "local-dir:"
PREFIXES = (TIMM, HUB, SEER, FOLDER)
WEIGHTS, CONFIG = "model.safetensors", "config.json"

SEER_SIZES = {"32gf": "regnety_320", "64gf": "regnety_640", "128gf": "regnety_1280", "256gf": "regnety_2560"}
"""What SEER calls its encoders -> timm's architecture. Source: SEER's README and timm's `regnet.py`."""

TUNED = "_ft_in1k"
"""End of a SEER name whose weights were fine-tuned on the labels of ImageNet."""

Check = Callable[[str], None]
"""Raises what is to be told of an architecture that cannot be used."""


@dataclass(frozen=True)
class NamedWeights:
    """A weight file of a stock architecture, and what is known of it.

    Attributes:
        source: As it was asked for.
        name: That tables show.
        backbone: timm architecture.
        file: On this machine.
        size: Side of the images that the weights were trained on, in pixels.
        mean: A value a channel, of images in [0, 1].
        std: A value a channel, of images in [0, 1].
        license: Its name; empty where none is on record.
    """

    source: str
    name: str
    backbone: str
    file: Path
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str = ""

    def stats(self, field: FieldSpec) -> InputStats | None:
        """The input that the weights were trained with, where a field can give it: 8-bit images of as many channels."""
        if field.dtype != "uint8" or len(field.channels) != len(self.mean):
            return None
        return InputStats(self.mean, self.std, (255.0,) * len(self.mean))


def is_named(source: str | Path) -> bool:
    """Whether weights are asked for by name, and not as a run or a file."""
    return str(source).startswith(PREFIXES)


def find_named(source: str, check: Check = check_backbone) -> NamedWeights:
    """The weights of a name, downloaded where they are not on this machine yet.

    - `timm:ARCHITECTURE.TAG`: weights that timm knows; without a tag its default ones; `timm:...@FILE` takes the file
      instead, and of timm only what it says of the input;
    - `seer:32gf`, `64gf`, `128gf`, or any of them and `256gf` with `_ft_in1k`: timm's copies of SEER (2103.01988);
    - `hub:OWNER/NAME`: a repository of the Hugging Face Hub with timm's `config.json` and `model.safetensors`;
    - `local-dir:FOLDER`: a folder with these two, such as `export` writes, or a repository that was copied by hand.

    Args:
        source: The name.
        check: Called with the architecture before its weights are downloaded.

    Raises:
        RegistryError: When timm has no such architecture or tag, or SEER no such size.
        ConfigError: For a name that is no OWNER/NAME.
        DataError: When there are no safetensors or no timm model behind it, or the file does not exist.
        OutOfReachError: When the hub does not answer.
        MissingExtraError: Without huggingface_hub.

    And whatever `check` raises.
    """
    if source.startswith(SEER):
        return _timm(source, _seer_name(source), check)
    if source.startswith(TIMM):
        return _timm(source, source.removeprefix(TIMM), check)
    if source.startswith(HUB):
        return _of_hub(source, source.removeprefix(HUB), check)
    return _of_folder(source, Path(source.removeprefix(FOLDER)), check)


def portable_name(source: str) -> str:
    """A source without the folders of this machine: `timm:resnet50@w.safetensors`, `hub:owner/name`, `old-run`."""
    if source.startswith(FOLDER):
        return f"{FOLDER}{Path(source.removeprefix(FOLDER)).name}"
    if not is_named(source):
        return Path(source).name
    name, at, file = source.partition("@")
    return f"{name}{at}{Path(file).name}" if at else name


def _seer_name(source: str) -> str:
    spec, at, file = source.removeprefix(SEER).partition("@")
    size, tuned = spec.removesuffix(TUNED), spec.endswith(TUNED)
    if size not in SEER_SIZES:
        raise RegistryError(
            f"{source}: {unknown_name('SEER encoder', size, SEER_SIZES)} The one of ten billion parameters (10b) is "
            "not in timm."
        )
    if size == "256gf" and not tuned:
        raise RegistryError(
            f"{source}: of this size timm has only weights that were fine-tuned on the labels of ImageNet, "
            f"{source.replace(size, size + TUNED)}. regnety_2560.seer is not in timm; if you have converted it, give "
            "it as timm:regnety_2560@FILE."
        )
    return f"{SEER_SIZES[size]}.seer{TUNED if tuned else ''}{at}{file}"


def _timm(source: str, spec: str, check: Check) -> NamedWeights:
    name, at, file = spec.partition("@")
    backbone = name.partition(".")[0]
    check_backbone(backbone)
    config = _timm_config(name)
    check(backbone)
    if at:
        found = Path(file)
        if not found.is_file():
            raise DataError(f"{source}: weight file {file!r} does not exist. Give a .safetensors or state-dict file.")
        if name == backbone:
            config["license"] = ""  # that of timm's default weights, which the file need not be
    else:
        repository = str(config.get("hf_hub_id") or "")
        if not repository:
            raise DataError(
                f"{source}: timm has no weights of it. Give them as a file, {TIMM}{name}@FILE; random weights are the "
                "arm 'random'."
            )
        found = _fetch(source, repository, WEIGHTS, f"{TIMM}{name}@FILE")
    title = f"{name}@{found.stem}" if at else name
    return _named(source, title, backbone, found, config)


def _timm_config(name: str) -> dict[str, Any]:
    """What timm knows of the weights of that name: input size, mean and deviation in [0, 1], where to find them."""
    try:
        found = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise RegistryError(
            f"{TIMM}{name}: {error} Leave the part after the dot out, or correct it. timm has "
            f"{', '.join(known) or 'no weights of this architecture'}."
        ) from error
    return dict(vars(found))


def _of_hub(source: str, repository: str, check: Check) -> NamedWeights:
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(f"{source}: expected {HUB}OWNER/NAME, a repository of the Hugging Face Hub.")
    by_hand = f"{FOLDER}FOLDER"
    config = _read_config(source, _fetch(source, repository, CONFIG, by_hand))
    check(str(config["architecture"]))
    file = _fetch(source, repository, WEIGHTS, by_hand)
    if "license" not in config:
        config["license"] = _card_license(source, repository)
    return _named(source, repository.replace("/", "-"), str(config["architecture"]), file, config)


def _of_folder(source: str, folder: Path, check: Check) -> NamedWeights:
    lacks = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if lacks:
        raise DataError(
            f"{source}: {folder} has no {' and no '.join(lacks)}. Expected a folder with {CONFIG} and {WEIGHTS}, as "
            "`sciencessl export` writes it and timm's repositories on the hub have it."
        )
    config = _read_config(source, folder / CONFIG)
    check(str(config["architecture"]))
    card = folder / "README.md"
    if "license" not in config and card.is_file():
        config["license"] = _front_matter(card)
    return _named(source, folder.resolve().name, str(config["architecture"]), folder / WEIGHTS, config)


def _named(source: str, name: str, backbone: str, file: Path, config: Mapping[str, Any]) -> NamedWeights:
    size = config.get("input_size") or (3, 224, 224)
    mean, std = (tuple(float(x) for x in config.get(key) or ()) for key in ("mean", "std"))
    terms = str(config.get("license") or "").lower()
    return NamedWeights(source, name, backbone, file, int(size[-1]), mean, std, terms)


def _read_config(source: str, path: Path) -> dict[str, Any]:
    """timm's `config.json` as one flat mapping, of an architecture that is built here."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = {**values, **values.get("pretrained_cfg", {})}
        backbone = config["architecture"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{source}: its {CONFIG} describes no model of timm's ({type(error).__name__}: {error}). Only stock "
            f"architectures of timm are built here; give weights of one as {TIMM}ARCHITECTURE@FILE."
        ) from error
    check_backbone(backbone)
    if values.get("model_args"):
        raise DataError(
            f"{source}: this {backbone} was built with {values['model_args']}; only architectures as timm has them "
            "are built here."
        )
    return config


def _card_license(source: str, repository: str) -> str:
    try:
        return _front_matter(_fetch(source, repository, "README.md", ""))
    except (DataError, OutOfReachError):
        return ""


def _front_matter(card: Path) -> str:
    """The licence that the first lines of a model card name; empty where they name none."""
    try:
        values = yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])
        return str(values.get("license_name") or values.get("license") or "")
    except (OSError, ValueError, IndexError, AttributeError, yaml.YAMLError):
        return ""


def _fetch(source: str, repository: str, file: str, by_hand: str) -> Path:
    """A file of a repository: from the cache of this machine, else from the hub into it."""
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            f"{source}: finding it needs huggingface_hub; pip install huggingface_hub, or give the weights as "
            f"{by_hand}."
        ) from error
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(repository, file))
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{source}: the hub has no repository {repository!r} that this machine may read. Correct the name, or log "
            "in (`hf auth login`) where it asks for that."
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreached(source, repository, file, by_hand, error) from error
    except EntryNotFoundError as error:
        raise DataError(
            f"{source}: the repository {repository} has no {file}. Only safetensors of timm models are read; a pickle "
            "from a stranger could run code."
        ) from error
    except (OSError, ValueError) as error:
        raise _unreached(source, repository, file, by_hand, error) from error


def _unreached(source: str, repository: str, file: str, by_hand: str, error: Exception) -> OutOfReachError:
    what = f"`hf download {repository} --local-dir FOLDER`"
    if by_hand.startswith(TIMM):
        what = f"https://huggingface.co/{repository}/resolve/main/{file}"
    return OutOfReachError(
        f"{source} is not on this machine, and could not be fetched from the Hugging Face Hub: {first_line(error)} "
        f"By hand: {what} on a machine with a network, copied here and given as {by_hand}."
    )
