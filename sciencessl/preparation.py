"""`prepare`: files -> store, through the domain's source and the registered preparer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciencessl.config import parse_settings
from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.layers import read_yaml
from sciencessl.monitor.throughput import Progress
from sciencessl.registry import domain_module, load_domain, prepare_settings, preparer, resolve, stream_opener
from sciencessl.store.remote import is_remote

SHOWN_REFUSALS = 5
PLAN_SUFFIXES = (".yaml", ".yml")
"""How the name of a prepare plan ends."""
PLAN_KEYS = ("domain", "sources", "settings")


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
        A report with `n_samples`, `refused`, `manifest_digest`...; an estimate with `dry_run`; what was done of a
        `part`; or, with the engine `slurm`, the script to submit.

    Raises:
        RegistryError: For an unknown domain.
        ConfigError: For an unknown setting or column, or a URL where files of this machine are expected.
        DataError: When the inputs cannot be used at all.
        StoreError: When `out` holds something else.
    """
    _check_local(out)
    spec = load_domain(domain)
    common, own = split_settings(spec.prepare_options, settings or {})
    bar = _Bar()
    try:
        return preparer()(
            spec, list(sources), Path(out), _parsed(prepare_settings(), common),
            domain_options=_parsed(spec.prepare_options, own), schema_loader=schema_loader(spec), dry_run=dry_run,
            progress=None if dry_run else bar.update,
        )
    finally:
        bar.close()


def open_plan(path: Path, beside: Path) -> Any:
    """Open what a plan describes, to read it without a store.

        domain: pathology
        sources: [slides/]          # from the plan's folder on
        settings: {mpp: 0.5, tile-px: 256, tissue: otsu}

    Args:
        path: YAML with what `prepare` would be told; settings are its flags without dashes in front.
        beside: What is found out about the files is kept beside this path.

    Returns:
        A `data_prep.stream.Stream`.

    Raises:
        RegistryError: For an unknown domain.
        ConfigError: For a missing or unreadable plan, an unknown key or setting, or one of another type.
        DataError: When the files cannot be used at all.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such plan.")
    found = read_yaml(path)
    for key in found:
        if key not in PLAN_KEYS:
            hint = did_you_mean(str(key), PLAN_KEYS)
            raise ConfigError(f"{path}: no key {key!r}.{hint} Keys: {', '.join(PLAN_KEYS)}.")
    sources, settings = found.get("sources"), found.get("settings") or {}
    sources = [sources] if isinstance(sources, str) else sources
    if not isinstance(found.get("domain"), str) or not isinstance(settings, Mapping) or not sources:
        raise ConfigError(f"{path}: a plan has `domain: NAME`, `sources: [FOLDER, ...]` and, of the flags of prepare, "
                          "`settings: {name: value}`.")
    spec = load_domain(found["domain"])
    texts = {entry.name for kind in (prepare_settings(), spec.prepare_options) for entry in dataclasses.fields(kind)
             if entry.type == "str"}
    plain = {str(name).replace("-", "_"): value for name, value in settings.items()}
    plain = {name: str(value) if name in texts and isinstance(value, int | float) else value
             for name, value in plain.items()}
    try:
        common, own = split_settings(spec.prepare_options, plain)
        parsed = _parsed(prepare_settings(), common), _parsed(spec.prepare_options, own)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    places = [path.parent / str(source) for source in sources]
    return stream_opener()(spec, places, *parsed, schema_loader(spec), beside)


def _check_local(out: str | Path) -> None:
    if is_remote(out):
        raise ConfigError(
            f"--out {out}: a store is prepared on a disk, where rows are locked and renamed. Prepare into a local "
            "folder, copy it with your provider's own tool, such as `aws s3 cp --recursive NAME.zarr "
            "s3://BUCKET/NAME.zarr`, and check the copy with `sciencessl store verify`."
        )


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


def _parsed(kind: type, values: Mapping[str, Any]) -> Any:
    return parse_settings(kind, values, "", dict.fromkeys(values, "flags"))


def report_text(result: Any) -> str:
    """What `prepare` did, for people: what was guessed, what is stored, and the first of what was refused."""
    if hasattr(result, "summary"):  # no store was finished
        return str(result.summary)
    lines = list(result.guessed)
    if result.nothing_to_do:
        lines.append(f"nothing to do: {result.out} holds all {result.rows_kept} rows")
    splits = ", ".join(f"{name} {count:,}" for name, count in result.splits.items() if count)
    lines.append(f"{result.n_samples:,} samples ({splits}) in {result.out}, {result.bytes / 2**20:.1f} MiB, "
                 f"{result.seconds:.1f} s")
    if result.refused:
        lines += [f"refused: {_counts(result.refused)}", *_first_refusals(result.refusals_file)]
    return "\n".join([*lines, f"manifest digest {result.manifest_digest}"])


def _first_refusals(path: Path) -> list[str]:
    import csv

    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    shown = [f"  {row['id']}: {row['reason']}, {row['detail']}" for row in rows[:SHOWN_REFUSALS]]
    left = len(rows) - len(shown)
    return [*shown, f"  {f'and {left:,} more; ' if left else ''}all are listed in {path}"]


def estimate_text(result: Any) -> str:
    """What `prepare` would do, for people."""
    return "\n".join([
        *result.guessed,
        f"would store {result.n_samples:,} samples in {result.rows} rows: about {result.bytes / 2**20:.1f} MiB "
        f"(and {result.scratch_bytes / 2**20:.1f} MiB of scratch), {result.seconds:.1f} s {_by_whom(result)}",
        f"one core prepares {result.n_samples / max(result.core_seconds, 1e-9):,.0f} samples a second: "
        f"{result.core_seconds / 3600:,.3g} core-hours in all",
        f"refused so far ({result.tried} inputs tried): {_counts(result.refused)}",
    ])


def _by_whom(result: Any) -> str:
    workers = f"{result.workers} process{'es' if result.workers > 1 else ''}" if result.workers else "this process"
    if result.engine == "slurm":
        return f"for each of {result.array_tasks} SLURM array tasks with {workers}"
    return f"on Ray with {workers}" if result.engine == "ray" else f"in {workers}"


def _counts(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in refused.items()) or "none"


class _Bar:
    """The bar is drawn once the number of samples is known."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._done = -1

    def update(self, done: int, total: int) -> None:
        """Called by the preparer."""
        if self._progress is None:
            self._progress = Progress(total, unit="sample", title="prepare")
        if done != self._done:
            self._progress.update(done)
            self._done = done

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.close()
