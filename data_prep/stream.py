"""A prepare plan that is read and not stored: samples, row by row, as a store of it would hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sciencessl.data_prep.engine import open_source
from sciencessl.data_prep.labels import with_schema
from sciencessl.data_prep.plan import inputs_digest, make_plan
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Input, Item, Source, Task
from sciencessl.errors import ConfigError
from sciencessl.spec import DomainSpec, LabelSchema
from sciencessl.store.format import StoreHeader, digest

UNSTORED = ("append_to", "engine", "part", "overwrite", "verify_inputs", "slurm_tasks", "slurm_options")
"""Settings on how a store is written."""


@dataclass(frozen=True)
class Stream:
    """The rows of a store that is never written.

    Attributes:
        header: Of the store that it would be.
        tasks: Its rows.
        source: Reads them.
        digest: Of the plan and of the files as they are: sizes and times.
    """

    header: StoreHeader
    tasks: Sequence[Task]
    source: Source
    digest: str

    @property
    def guessed(self) -> tuple[str, ...]:
        """What columns and folders were taken for."""
        return self.source.guessed

    def expected(self, split: str) -> int:
        """Most samples of a split, or of `all`."""
        return sum(entry.samples for task in self.tasks for entry in _of_split(task, split) if entry.file)

    def read(self, row: int, split: str) -> Iterator[Item]:
        """The samples of a row that are in a split (or in `all`), as they would be stored, and what is refused. What is
        refused before anything is read comes whatever the split."""
        task = self.tasks[row]
        yield from self.source.read(replace(task, inputs=_of_split(task, split)))

    def close(self) -> None:
        """Release open archives."""
        self.source.close()


def _of_split(task: Task, split: str) -> tuple[Input, ...]:
    return tuple(entry for entry in task.inputs if split in ("all", entry.split) or not entry.file)


def open_stream(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None,
    schema_loader: Callable[[str], LabelSchema] | None, beside: Path,
) -> Stream:
    """List and look at the inputs of a plan, as `prepare` does, to read them without a store.

    Args:
        spec: The domain.
        sources: Folders, files, globs.
        settings: As of `prepare`; those on writing a store do not go with it.
        options: The domain's own.
        schema_loader: Reads a label schema from a file.
        beside: What the source finds out is kept beside this path, as beside a store.

    Raises:
        ConfigError, DataError: As `prepare`; for a setting on how a store is written.
    """
    plain = PrepareSettings()
    for name in UNSTORED:
        if getattr(settings, name) != getattr(plain, name):
            raise ConfigError(f"setting {name} is about writing a store, and a plan that is streamed writes none; "
                              "leave it out.")
    spec, settings = with_schema(spec, settings, schema_loader)
    source = open_source(spec, sources, settings, options, beside)
    plan = make_plan(spec.name, source)
    header = plan.header
    files = [inputs_digest(task.inputs).encode() for task in plan.tasks]
    told = digest(header.plan_digest.encode(), header.config_digest.encode(), *files)
    return Stream(header, plan.tasks, source, told)
