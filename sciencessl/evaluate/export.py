"""`export`: a run's encoder as a folder that timm loads by itself, with all that it takes to use it rightly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sciencessl.backbones.named_weights import portable_name
from sciencessl.backbones.norms import WORDS
from sciencessl.errors import RunError
from sciencessl.evaluate.encoders import Encoder, run_encoder
from sciencessl.evaluate.export_words import card_sentences, is_linear_8bit, readme
from sciencessl.registry import load_domain
from sciencessl.spec import DomainSpec
from sciencessl.store.remote import local_path
from sciencessl.train.folder import ModelCard, library_version, write_model

CARD = "sciencessl.json"
TOLERANCE = 1e-6
"""Largest difference of a feature, relative to the largest feature: what float32 itself may round off."""

@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote.

    Attributes:
        out: The folder.
        format: `timm`, or `sciencessl` where stock timm does not give the encoder back.
        features: F.
        difference: Largest difference between features of the run and of what timm loaded, relative to the largest
            feature; None where timm could not load it.
        reason: Why the format is not `timm`; empty otherwise.
    """

    out: Path
    format: str
    features: int
    difference: float | None
    reason: str = ""


def export(run: str | Path, out: str | Path, overwrite: bool = False) -> ExportResult:
    """Write a run's encoder for others: weights, `config.json` for timm, our model card and a README.

    What is written is read back by timm and compared with the run's own encoder on a random batch before it gets its
    name. Encoders that stock timm does not give back are written in the form of a run folder's `exported/`, which
    serves wherever sciencessl expects a run.

    Args:
        run: A finished run.
        out: Folder to write.
        overwrite: Replace an earlier export in `out`.

    Raises:
        RunError: When `out` is not empty, or holds something else than an export; when `run` is no finished run, or
            its encoder gives no finite features.
        DataError: When the run's weights are damaged.
    """
    folder = local_path(out).resolve()
    _claim(folder, overwrite)
    encoder = run_encoder(run)
    card = shareable(encoder.card)
    domain = load_domain(card.domain)
    with _staged(folder) as staged:
        _write_timm(staged, card, encoder, domain)
        difference, reason = _compare(staged, card, encoder)
        kind = "sciencessl" if reason else "timm"
        if reason:
            for path in staged.iterdir():
                path.unlink()
            write_model(staged, card, encoder.module)
        _write_card(staged, card, kind, difference)
        (staged / "README.md").write_text(readme(card, domain, kind, folder.name), encoding="utf-8")
    return ExportResult(Path(out), kind, card.features, difference, reason)


def export_text(result: ExportResult) -> str:
    """What was written and how to load it, for people."""
    if result.format == "timm":
        return (
            f"exported to {result.out}; features of width {result.features}, the same as the run's when timm loads "
            f"them (largest relative difference {result.difference:.1g}):\n"
            f'  timm.create_model("local-dir:{result.out}", pretrained=True)\n'
            f"The input that it needs is in {result.out / 'README.md'}"
        )
    return (
        f"exported to {result.out} in the format of sciencessl, since stock timm does not load this encoder: "
        f"{result.reason}. Use the folder where a run is expected:\n"
        f"  sciencessl embed {result.out} --data STORE --out DIR"
    )


def shareable(card: ModelCard) -> ModelCard:
    """The card without the folders of the machine it was made on, which would tell strangers names of people."""
    stores = tuple(replace(store, path=Path(store.path).name) for store in card.stores)
    sampling = card.sampling
    for store in card.stores:
        sampling = sampling.replace(store.path, Path(store.path).name)
    init_from = ", ".join(map(portable_name, card.init_from.split(", ")))  # an average may have several
    return replace(card, stores=stores, sampling=sampling, init_from=init_from, method=Path(card.method).name,
                   averaged=tuple(map(portable_name, card.averaged)))


def _claim(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise RunError(f"{folder} is a file; choose another --out.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / CARD).is_file():
        raise RunError(f"{folder} is not empty and holds no earlier export (no {CARD}); choose another --out.")
    if not overwrite:
        raise RunError(f"{folder} holds an export already. --overwrite replaces it, or choose another --out.")


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, which takes its place when all is written."""
    staged = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        shutil.rmtree(folder, ignore_errors=True)
        staged.replace(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_timm(folder: Path, card: ModelCard, encoder: Encoder, domain: DomainSpec) -> None:
    from safetensors.torch import save

    module: Any = encoder.module
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    # Not save_file, whose file only its owner may read.
    (folder / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    config = timm_config(card, domain, module.pretrained_cfg)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def timm_config(card: ModelCard, domain: DomainSpec, stock: Any) -> dict[str, Any]:
    """The `config.json` that timm's `local-dir:` reads.

    timm applies `mean` and `std` to images in [0, 1]. They are the run's only where its input is that too: 8-bit
    images, no stretch, the standard `to_input`. Elsewhere they are 0 and 1, so that nobody is told a wrong one.

    Args:
        card: Of the encoder.
        domain: Of the encoder.
        stock: timm's own `pretrained_cfg` of the architecture.
    """
    count, size = len(card.channels), view_size(card, stock)
    linear = is_linear_8bit(card, domain)
    return {
        "architecture": card.backbone,
        "num_classes": 0,
        "num_features": card.features,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [count, *size],
            "fixed_input_size": bool(stock.get("fixed_input_size", False)),
            "interpolation": "bicubic",
            "crop_pct": float(card.views.get("evaluation_window", 0.875)),
            "crop_mode": "center",
            "mean": list(card.stats.mean) if linear else [0.0] * count,
            "std": list(card.stats.std) if linear else [1.0] * count,
            # Told of it, older timm takes weights of other than three channels for ones that it must replace at random.
            "first_conv": stock.get("first_conv") if count == 3 else None,
            "classifier": stock.get("classifier"),
        },
    }


def view_size(card: ModelCard, stock: Any) -> tuple[int, int]:
    """(H, W) of an evaluation view: the views' `size`, or what timm declares where the domain has no such setting."""
    side = card.views.get("size")
    height, width = (side, side) if side else stock["input_size"][-2:]
    return int(height), int(width)


@torch.inference_mode()
def _compare(folder: Path, card: ModelCard, encoder: Encoder) -> tuple[float | None, str]:
    """Largest relative difference between what timm loads and the encoder, and why timm will not do, if so."""
    import timm

    if card.norm != "batch":
        return None, f"it has {WORDS[card.norm]}, as no {card.backbone} of timm's has"
    module: Any = encoder.module
    generator = torch.Generator().manual_seed(0)
    shape = (4, len(card.channels), *view_size(card, module.pretrained_cfg))
    batch = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    wanted = module(batch).float()
    if not torch.isfinite(wanted).all():
        raise RunError(f"the encoder of {encoder.name} gives features that are not finite; look at its training curve.")
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        found = model.eval().to(memory_format=torch.channels_last)(batch).float()
    except Exception as error:  # timm's own errors are of many kinds; any of them means the same
        return None, f"timm {timm.__version__} cannot load it ({type(error).__name__}: {error})"
    if found.shape != wanted.shape:
        return None, f"timm {timm.__version__} gives {tuple(found.shape)} features, not {tuple(wanted.shape)}"
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    if not difference <= TOLERANCE:
        return difference, f"timm {timm.__version__} gives features that differ by {difference:.1g}"
    return difference, ""


def _write_card(folder: Path, card: ModelCard, kind: str, difference: float | None) -> None:
    values = {
        "format": kind,
        "sciencessl": library_version("sciencessl"),
        "timm": library_version("timm"),
        "torch": library_version("torch"),
        "difference": difference,
        "pretraining": card_sentences(card),
        "card": asdict(card),
    }
    (folder / CARD).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
