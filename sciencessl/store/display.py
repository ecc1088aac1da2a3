"""The pictures of a store by one fixed stretch: contact sheets, report galleries, and stamps for volunteers.

    shown = fit_display(store)          # Callable[[Sample], np.ndarray]: (H, W, 3) uint8
    for sample in Decoder(store, domain.decode)(index):
        save_pixels(shown(sample), path)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.errors import ConfigError, StoreError, unknown_name
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from sciencessl.spec import DomainSpec
from sciencessl.store.reader import Store
from sciencessl.views.display import STRETCH
from sciencessl.views.stretch import KINDS, Stretch, fit_stretch, legacy_stretch, with_missing

PER_STAMP = "per-stamp"
SAMPLES = 256
"""Training stamps that the stretch of a store is fitted on."""


@dataclass(frozen=True)
class Display:
    """Sample -> (H, W, 3) uint8, as the store's domain displays it.

    Attributes:
        domain: Name of the domain.
        stretch: Of float fields, all bands; None for 8-bit images, and where each stamp is to have its own.
    """

    domain: str
    stretch: Stretch | None = None

    def __call__(self, sample: Sample) -> np.ndarray:
        """A sample of the store, or a view of one, as pixels for people."""
        fixed = {STRETCH: self.stretch} if self.stretch else {}
        return self._spec.display(replace(sample, meta=sample.meta | fixed))

    @cached_property
    def _spec(self) -> DomainSpec:
        # Looked for once: that goes through every installed package.
        return load_domain(self.domain)

    def __getstate__(self) -> dict[str, Any]:
        return {"domain": self.domain, "stretch": self.stretch}


def fit_display(store: Store, kind: str = "asinh") -> Display:
    """How samples of a store are shown: flux by one stretch for all, fitted on stamps spread over split=train.

    The same store gives the same pictures. Masked pixels (`FIELD.mask` not 0) and damaged stamps take no part in the
    fit.

    Args:
        store: Sealed. 8-bit images are shown as they are, whatever the kind.
        kind: `asinh`, `linear`, `log` or `percentile` of each band, `lupton` of their intensity, `legacy` for the
            constants of the Legacy Surveys viewer (nanomaggies in u, g, r, i or z), or `per-stamp`: asinh fitted to
            each stamp by itself, which hides how bright it is.

    Raises:
        ConfigError: For an unknown kind, or `legacy` and bands that the viewer does not show.
    """
    if kind not in (*KINDS, PER_STAMP):
        raise ConfigError(unknown_name("stretch", kind, [*KINDS, PER_STAMP]))
    spec = store.header.fields[store.primary]
    display = Display(store.header.domain)
    if kind == PER_STAMP or np.dtype(spec.dtype) == np.uint8:
        return display
    if kind == "legacy":
        return replace(display, stretch=legacy_stretch(spec.channels))
    return replace(display, stretch=fit_stretch(_stamps(store), len(spec.channels), kind))  # type: ignore[arg-type]


def pictures(store: Store) -> Callable[[int], np.ndarray]:
    """Store index -> (H, W, 3) uint8, flux stretched stamp by stamp: contents are compared, and faint ones need
    contrast too.

    What it returns raises StoreError for a payload that cannot be read.
    """
    domain = load_domain(store.header.domain)
    decoder = Decoder(store, domain.decode)
    return lambda index: domain.display(decoder(np.array([index]))[0])


def _stamps(store: Store) -> Iterator[np.ndarray]:
    """Flux of stamps whose keyed-hash order makes any spread of them a random one; of all splits without train."""
    split = store.split("train")
    every = split if len(split) else store.present
    places = np.unique(np.linspace(0, len(every) - 1, min(len(every), SAMPLES)).astype(np.int64))
    decoder, name = Decoder(store, load_domain(store.header.domain).decode), store.primary
    needed = [field for field in (name, f"{name}.mask") if field in store.header.fields]
    for position in every.to_store(places):
        where = np.array([position])
        try:
            (sample,) = decoder.decode(where, {field: store.payloads(field, where) for field in needed})
        except StoreError:
            continue  # whoever shows it will be told
        yield with_missing(sample.fields[name], sample.fields.get(f"{name}.mask"))
