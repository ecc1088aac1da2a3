"""The settings of `prepare`, checked when they are built."""

from __future__ import annotations

from dataclasses import dataclass

from sciencessl.data_prep.vote_columns import FORMS
from sciencessl.errors import ConfigError

ENGINES = ("local", "slurm", "ray")


@dataclass(frozen=True)
class PrepareSettings:
    """How files become a store. Names of columns are guessed, and the guess is printed, where they are left empty.

    Attributes:
        source: What reads the files: one of the domain's sources, by default its first.
        catalogue: CSV, Parquet, FITS or VOTable table; empty finds `catalogue.*` or `manifest.csv` in the source.
        id: Column with unique identifiers, read as text.
        file: Column with file paths, relative to the catalogue's folder.
        label: Columns with classes.
        votes: Columns with vote counts; each must be a column of the schema, or an alias of one.
        votes_from: Take votes from `counts`, `weights` of volunteers, or `fractions` times how many answered. Empty
            takes the first of them that is there.
        group: Column whose values never straddle splits (patient, source tile).
        split: Column with given splits; without one, splits are drawn by a keyed hash of the group.
        schema: Name of a label schema of the domain, or a schema file.
        keep: Catalogue columns carried into the store; `all` carries every one.
        test_fraction: Share of groups drawn for test, 0 to below 1.
        val_fraction: Share of groups drawn for validation, 0 to below 1.
        split_seed: Key of that draw.
        stratify: Draw whole groups so that every split has its share of each class as nearly as they allow. The draw
            then depends on all groups at once: what is added later may move others.
        resize_px: Short side after shrinking, in pixels; smaller images stay as they are. None shrinks nothing.
        jpeg_quality: Of JPEG files that have to be encoded again, 1 to 100; when not given 95, and 90 for crawls.
        min_px: Images with a shorter side than this many pixels are refused.
        append_to: A sealed store that this is to be a new version of: its rows come first and are shared, inputs with
            ids that it lacks follow, labels are joined. Settings must be those that it was prepared with.
        engine: Who prepares: `local` processes, `ray`, or `slurm`: lay the store and write the script of a job array.
        workers: Processes that prepare rows side by side; when not given one for each core, fewer for a small store. An
            input that crashes its process is refused like any bad one. 0 prepares in this process, row after row.
        slurm_tasks: Tasks of the array; when not given, so many that each has ten minutes of work, 1,000 at most.
        slurm_options: Options for sbatch, such as `--slurm-options="--partition=cpu --time=1:00:00"`.
        part: `I/N` writes rows I, I + N, I + 2 N... of a store that is begun, beside other parts, and seals nothing:
            what the tasks of a job array do.
        verify_inputs: Compare contents of inputs with what was stored instead of sizes and times.
        overwrite: Delete a store that lies at the output first.

    Raises:
        ConfigError: For a value outside its range.
    """

    source: str = ""
    catalogue: str = ""
    id: str = ""
    file: str = ""
    label: tuple[str, ...] = ()
    votes: tuple[str, ...] = ()
    votes_from: str = ""
    group: str = ""
    split: str = ""
    schema: str = ""
    keep: tuple[str, ...] = ()
    test_fraction: float = 0.2
    val_fraction: float = 0.0
    split_seed: int = 0
    stratify: bool = False
    resize_px: int | None = None
    jpeg_quality: int | None = None
    min_px: int = 8
    append_to: str = ""
    engine: str = "local"
    workers: int | None = None
    slurm_tasks: int | None = None
    slurm_options: str = ""
    part: str = ""
    verify_inputs: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("label", "votes", "keep"):
            require(name, repr(getattr(self, name)), not isinstance(getattr(self, name), str), "a tuple of columns")
        for name in ("test_fraction", "val_fraction"):
            require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "0 or more and below 1")
        both = self.test_fraction + self.val_fraction
        require("test_fraction + val_fraction", both, both < 1, "below 1, so that something is left to train on")
        require("split_seed", self.split_seed, self.split_seed >= 0, "0 or more")
        require("jpeg_quality", self.jpeg_quality, self.jpeg_quality is None or 1 <= self.jpeg_quality <= 100,
                "1 to 100")
        require("min_px", self.min_px, self.min_px >= 1, "1 or more")
        require("engine", repr(self.engine), self.engine in ENGINES, f"one of {', '.join(ENGINES)}")
        known = self.votes_from in ("", *FORMS)
        require("votes_from", repr(self.votes_from), known, f"one of {', '.join(FORMS)}, or empty")
        require("slurm_tasks", self.slurm_tasks, self.slurm_tasks is None or self.slurm_tasks >= 1, "1 or more")
        one_line = not self.slurm_options or (self.slurm_options.startswith("-") and self.slurm_options.isprintable())
        require("slurm_options", repr(self.slurm_options), one_line, "options in one line, the first starting with -")
        self._check_part()
        if self.workers is not None:
            require("workers", self.workers, self.workers >= 0, "0 or more")
        if self.resize_px is not None:
            require("resize_px", self.resize_px, self.resize_px >= self.min_px, f"at least min_px ({self.min_px})")

    def _check_part(self) -> None:
        if self.part:
            number, _, parts = self.part.partition("/")
            holds = number.isdecimal() and parts.isdecimal() and int(number) < int(parts)
            require("part", repr(self.part), holds, "I/N with I from 0 to N - 1")
            require("part", repr(self.part), not self.overwrite, "without --overwrite, which other parts would suffer")
            require("part", repr(self.part), self.engine != "slurm", "without --engine slurm, whose array gives it")


def require(name: str, value: object, holds: bool, rule: str) -> None:
    """Refuse a setting of `prepare` that breaks a rule, given in words.

    Raises:
        ConfigError: Saying the setting, its value and the rule.
    """
    if not holds:
        raise ConfigError(f"prepare setting {name} is {value}; it must be {rule}.")
