"""The README of an export: how to load the encoder, what it must be fed, and what pretraining saw."""

from __future__ import annotations

import inspect
import math

from sciencessl.backbones.licenses import license_words
from sciencessl.backbones.norms import WORDS
from sciencessl.data.decode import WORTH_PIXELS
from sciencessl.evaluate.encoders import view_settings
from sciencessl.flags import attribute_docs
from sciencessl.spec import DomainSpec
from sciencessl.store.audited import ACCEPTED
from sciencessl.train.folder import ModelCard

STANDARD_DECODE = "sciencessl.data.decode:decode"
STANDARD_INPUT = "sciencessl.views.to_input:standardise"
EVALUATED = ("size", "evaluation_window")
"""View settings that shape an image that is evaluated; all others are of training views."""


def is_linear_8bit(card: ModelCard, domain: DomainSpec) -> bool:
    """Whether model input is (x / 255 - mean) / std and nothing else, which timm's own transforms can say."""
    return card.stats.stretch == "linear" and set(card.stats.scale) == {255.0} and domain.to_input == STANDARD_INPUT


def readme(card: ModelCard, domain: DomainSpec, kind: str, name: str) -> str:
    """Markdown for whoever gets the folder and knows nothing of the run.

    Args:
        card: Of the encoder.
        domain: Of the encoder.
        kind: Format of the export, `timm` or `sciencessl`.
        name: Of the folder.
    """
    norm = f" ({WORDS[card.norm]})" if WORDS[card.norm] else ""
    parts = [
        f"# {name}",
        f"{card.backbone}{norm}, pretrained with {card.method}: images of {len(card.channels)} channels "
        f"({', '.join(card.channels)}) -> {card.features} features. Domain: {domain.name} ({domain.title}).",
        "## Load", _loading(kind, name),
        "## Input", _view_words(card, domain), _input_words(card, domain),
        "## What pretraining saw", "\n".join(f"- {sentence}" for sentence in card_sentences(card)),
        "`sciencessl.json` holds all of this as numbers.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _loading(kind: str, name: str) -> str:
    if kind == "timm":
        return (
            "With timm 1.0.16 or newer, in the folder that holds this one (`num_classes=10` adds a new classifier):\n\n"
            f'```python\nimport timm\n\nencoder = timm.create_model("local-dir:{name}", pretrained=True).eval()\n```'
        )
    return (
        "Stock timm does not build this encoder. sciencessl takes this folder where it expects a run:\n\n"
        f"```\nsciencessl embed {name} --data STORE --out DIR\n```"
    )


def _view_words(card: ModelCard, domain: DomainSpec) -> str:
    documented = attribute_docs(domain.train_options)
    told = " ".join((inspect.getdoc(domain.views) or "").partition("\n\n")[0].split())
    views = f' "{told}"' if told and inspect.isfunction(domain.views) else ""
    start = f"1. The evaluation view of domain {domain.name}, as `sciencessl embed` makes it.{views}"
    used = [name for name in EVALUATED if name in card.views]
    least = getattr(domain.views(view_settings(card))[1], "least_px", {}).get(card.field, math.inf)
    if domain.decode == STANDARD_DECODE and math.isfinite(least):
        start += (
            f" JPEGs of {WORTH_PIXELS:,} pixels or more are decoded at the smallest of 1/2, 1/4 and 1/8 of their size "
            f"that leaves the shorter side {least:.4g} pixels or more (scaling in the decoder, as Pillow's `draft`)."
        )
    return "\n".join([start, *(f"   - `{name}` = {card.views[name]}: {documented.get(name, '')}" for name in used)])


def _input_words(card: ModelCard, domain: DomainSpec) -> str:
    if domain.to_input != STANDARD_INPUT:
        return f"2. `{domain.to_input}` with the statistics in `sciencessl.json`. Not timm's own transform."
    stats = card.stats
    words = {"asinh": "torch.asinh(x)", "log": "torch.sign(x) * torch.log1p(torch.abs(x))"}
    stretch = f"    x = {words[stats.stretch]}\n" if stats.stretch in words else ""
    numbers = "".join(
        f"{name} = torch.tensor({list(getattr(stats, name))}).view(-1, 1, 1)\n" for name in ("scale", "mean", "std")
    )
    timm = (
        "`config.json` gives timm the same mean and std, which it applies to images in [0, 1]. Its own transform then "
        "comes close; its resize differs."
        if is_linear_8bit(card, domain) else
        "timm has no words for this input, so `config.json` says mean 0 and std 1: do not use timm's own transform."
    )
    return (
        "2. Scale, stretch, mean and standard deviation of each channel, from pixels as they are stored:\n\n"
        f"```python\nimport torch\n\n{numbers}\n\n"
        f"def to_input(views):  # (B, {len(card.channels)}, H, W)\n"
        f"    x = views.float() / scale\n{stretch}"
        "    return torch.nan_to_num((x - mean) / std, nan=0.0, posinf=0.0, neginf=0.0)\n```\n\n"
        f"{timm}"
    )


def card_sentences(card: ModelCard) -> list[str]:
    """What pretraining saw, a sentence each: images, labels, and the weights that it started from and their licence."""
    rows = {name: f" ({count:,} rows)" for name, count in card.label_rows.items()}
    named = ", ".join(f"{name}{rows.get(name, '')}" for name in (card.label_rows or card.label_columns))
    note = f" {card.label_note}." if card.label_note else ""
    stores = " and ".join(f"{store.path}{f' (digest {store.digest})' if store.digest else ''}" for store in card.stores)
    sentences = [
        f"{card.images:,} images, repeats counted, in {card.steps:,} steps, from split=train of {stores}.",
        f"Labels: {named}.{note}" if named else "No labels.",
    ]
    if card.probe_columns:
        sentences.append(
            f"Online probes read {', '.join(card.probe_columns)} while it trained: it did not learn from them, but may "
            "have been chosen by them."
        )
    if card.sampling:
        sentences.append(f"{card.sampling[0].upper()}{card.sampling[1:]}.")
    if card.leak:
        sentences.append(f"{ACCEPTED}: {card.leak}.")
    if card.init_from:
        sentences.append(f"Weights to start from: {card.init_from}; what those saw is not told here.")
    if card.averaged:
        sentences.append(f"The weights are the mean of {len(card.averaged)} encoder(s): {'; '.join(card.averaged)}.")
    if terms := license_words(card.license):
        sentences.append(f"{terms[0].upper()}{terms[1:]}.")
    return sentences
