"""`prepare`: files -> store, through the domain's source and the registered preparer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciencessl.config import parse_settings
from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.monitor.throughput import Progress
from sciencessl.registry import domain_module, load_domain, prepare_settings, preparer, resolve


def prepare(
    domain: str,
    sources: Sequence[str | Path],
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Any:
    """Turn files into a sealed store; a second call does only what is missing.

    Args:
        domain: Name of a domain.
        sources: Folders, files, globs or archives.
        out: The store's folder, usually `NAME.zarr`.
        settings: Setting -> value, of `PrepareSettings` or of the domain's own `prepare_options`.
        dry_run: Estimate from a few inputs; write nothing.

    Returns:
        A report with `n_samples`, `refused`, `manifest_digest`...; an estimate with `dry_run`.

    Raises:
        RegistryError: For an unknown domain.
        ConfigError: For an unknown setting or column.
        DataError: When the inputs cannot be used at all.
        StoreError: When `out` holds something else.
    """
    spec = load_domain(domain)
    common, own = split_settings(spec.prepare_options, settings or {})
    bar = _Bar()
    try:
        return preparer()(
            spec, list(sources), Path(out), parse_settings(prepare_settings(), common, "", {}),
            domain_options=parse_settings(spec.prepare_options, own, "", {}), schema_loader=schema_loader(spec),
            dry_run=dry_run, progress=None if dry_run else bar.update,
        )
    finally:
        bar.close()


def schema_loader(spec: Any) -> Any:
    """The domain's own reader of schema files, or None: a function `load_schema` beside its SPEC."""
    if not spec.labels:
        return None
    return resolve(f"{domain_module(spec.name)}:load_schema")


def split_settings(options: type, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of every source, settings of this domain).

    Raises:
        ConfigError: For a name that is neither.
    """
    common = {entry.name for entry in dataclasses.fields(prepare_settings())}
    own = {entry.name for entry in dataclasses.fields(options)}
    for name in values:
        if name not in common | own:
            flag = name.replace("_", "-")
            known = [known.replace("_", "-") for known in common | own]
            raise ConfigError(f"prepare has no setting --{flag}.{did_you_mean(flag, known)}")
    return (
        {name: value for name, value in values.items() if name in common},
        {name: value for name, value in values.items() if name in own},
    )


class _Bar:
    """The bar is drawn once the number of samples is known."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def update(self, done: int, total: int) -> None:
        """Called by the preparer."""
        if self._progress is None:
            self._progress = Progress(total, unit="sample", title="prepare")
        self._progress.update(done)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.close()
