"""Statistics of model input, from the data that a run is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from sciencessl.data.loader import Decoder, ViewRandomness, apply_view
from sciencessl.spec import DomainSpec, InputStats
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.views.stretch import with_missing
from sciencessl.views.to_input import fit_stats

STATS_SAMPLES = 512
"""Samples whose pixels set the input statistics: their mean and spread are then known to a few percent."""


def input_stats(store: Store | JoinedStores, domain: DomainSpec, settings: Any) -> InputStats:
    """Statistics of evaluation views of split=train, whose keyed-hash order makes any spread of samples a random one.

    Of views, not of stored images: a galaxy in the middle window is far brighter than the sky around it. Masked pixels
    take no part.

    Args:
        store: With samples in split=train.
        domain: Of the store.
        settings: The domain's view settings; their `stretch`, if they have one, goes before the domain's.

    Raises:
        DataError: When a channel has no finite pixel.
    """
    spec = store.header.fields[store.primary]
    split = store.split("train")
    positions = np.unique(np.linspace(0, len(split) - 1, min(len(split), STATS_SAMPLES)).astype(np.int64))
    images = _evaluation_images(store, domain, settings, split.to_store(positions))
    return fit_stats(images, len(spec.channels), getattr(settings, "stretch", domain.stretch), spec.dtype)


def _evaluation_images(
    store: Store | JoinedStores, domain: DomainSpec, settings: Any, index: np.ndarray
) -> Iterator[np.ndarray]:
    """The primary field of evaluation views, NaN where the store's mask says that a pixel is bad."""
    decoder, view = Decoder(store, domain.decode), domain.views(settings)[1]
    name, mask = store.primary, f"{store.primary}.mask"
    for position in index:
        where = np.array([position])
        payloads = decoder.read(where, view)
        if mask in store.header.fields:
            payloads[mask] = store.payloads(mask, where)
        (sample,) = decoder.decode(where, payloads, view)
        known = with_missing(sample.fields[name], sample.fields.get(mask))
        sample = replace(sample, fields=sample.fields | {name: known})
        yield apply_view(view, sample, ViewRandomness(0, 0, sample.index))[0].fields[name]
