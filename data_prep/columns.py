"""Which column of a catalogue is what: as the settings say, else by name, and in words what was guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sciencessl.data_prep.catalogue import Catalogue, as_text
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.split import SPLIT_NAMES
from sciencessl.errors import ConfigError, DataError, did_you_mean
from sciencessl.spec import DomainSpec

ID_NAMES = (
    "id", "id_str", "sample_id", "objid", "dr7objid", "dr8objid", "iauname", "dr8_id", "galaxy_id", "source_id",
    "object_id", "image_id", "tile_id",
)
FILE_NAMES = ("file", "file_loc", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path")
CLASS_NAMES = ("class", "label", "classes", "class_name", "category")
GROUP_NAMES = ("patient", "patient_id", "case", "case_id", "subject", "subject_id", "slide", "slide_id", "source_tile",
               "group", "group_id")
SPLIT_COLUMNS = ("split", "subset", "partition")


@dataclass(frozen=True)
class Columns:
    """What each column of a catalogue is taken for; empty where there is none.

    Attributes:
        id: Identifiers; empty when they come from file names.
        file: Paths; empty when files are found by identifier.
        classes: Label columns.
        group: Grouping column.
        split: Column of given splits.
        guessed: One sentence for each guess.
    """

    id: str
    file: str
    classes: tuple[str, ...]
    group: str
    split: str
    guessed: tuple[str, ...]


def choose_columns(
    catalogue: Catalogue, spec: DomainSpec, settings: PrepareSettings, files: bool = True,
    id_names: Sequence[str] = ID_NAMES,
) -> Columns:
    """Take the columns that the settings name and guess the others by name, in any case.

    Args:
        catalogue: The table.
        spec: The domain.
        settings: Which names columns, or leaves them to be guessed.
        files: Whether samples are files, so that a column may name them.
        id_names: Names of columns that hold identifiers, the likeliest first.

    Raises:
        ConfigError: When a named column does not exist; says the closest one and all there are.
        DataError: When neither an identifier nor a file column is there.
    """
    known = catalogue.data.column_names
    for flag in ("id", "file", "group", "split"):
        require_columns([getattr(settings, flag)] if getattr(settings, flag) else [], flag, catalogue)
    require_columns(settings.label, "label", catalogue)
    file = (settings.file or first_name(FILE_NAMES, known)) if files else ""
    # "name" is an identifier only where it is not all the catalogue has of files.
    identifier = settings.id or first_name((*id_names, "name"), known)
    group = settings.group or first_name((spec.group, *GROUP_NAMES) if spec.group else GROUP_NAMES, known)
    split = settings.split or _guess_split(catalogue)
    classes = settings.label or _guess_classes(spec, known, {file, identifier, group, split})
    if not identifier and not file:
        raise DataError(
            f"catalogue {catalogue.where} has no column of {'files or ' if files else ''}identifiers among: "
            f"{', '.join(known)}. Name one with {'--file or ' if files else ''}--id."
        )
    found = Columns(identifier, file, tuple(classes), group, split, ())
    return Columns(identifier, file, tuple(classes), group, split, tuple(_sentences(found, catalogue, settings, files)))


def require_columns(names: Sequence[str], flag: str, catalogue: Catalogue) -> None:
    """Refuse names that are no column of the catalogue.

    Raises:
        ConfigError: Naming flag, column, the closest name and all columns.
    """
    known = catalogue.data.column_names
    for name in names:
        if name not in known:
            where = catalogue.described
            raise ConfigError(
                f"--{flag} {name}: no such column in {where}.{did_you_mean(name, known)} Columns: {', '.join(known)}."
            )


def first_name(names: Sequence[str], known: Sequence[str]) -> str:
    """The first of the names that is known, in any case and as it is spelt there; empty when none is."""
    lower = {name.lower(): name for name in reversed(known)}
    return next((lower[name.lower()] for name in names if name.lower() in lower), "")


def _guess_split(catalogue: Catalogue) -> str:
    name = first_name(SPLIT_COLUMNS, catalogue.data.column_names)
    if not name:
        return ""
    values = {(value or "").lower() for value in as_text(catalogue.data, name)}
    return name if values <= set(SPLIT_NAMES) else ""


def _guess_classes(spec: DomainSpec, known: Sequence[str], taken: set[str]) -> list[str]:
    by_task = [task.column for task in spec.tasks if task.column and task.kind in ("class", "bag", "retrieval")]
    by_role = [column.name for column in spec.columns if column.role == "label"]
    wanted = dict.fromkeys([*by_task, *by_role])
    named = [name for name in wanted if name in known and name not in taken]
    usual = first_name(CLASS_NAMES, [name for name in known if name not in taken])
    return list(dict.fromkeys([*named, usual] if usual else named))


def _sentences(found: Columns, catalogue: Catalogue, settings: PrepareSettings, files: bool) -> list[str]:
    made = catalogue.made
    said = [f"catalogue: {catalogue.where}"] if catalogue.where and not settings.catalogue else []

    def say(what: str, name: str, given: bool) -> str:
        if given or not name:
            return ""
        return f"{what} from {made[name]}" if name in made else f"{what} from column {name!r}"

    said.append(say("id", found.id, bool(settings.id)) if found.id else "id from file names")
    if catalogue.where and files:
        said.append(say("file", found.file, bool(settings.file)) if found.file else "file by name, from the id")
    said += [say("class", name, bool(settings.label)) for name in found.classes]
    if found.group or files:
        none = "group: none, each file its own"
        said.append(say("group", found.group, bool(settings.group)) if found.group else none)
    drawn = f"split drawn by group: {settings.test_fraction:g} test, {settings.val_fraction:g} val"
    said.append(say("split", found.split, bool(settings.split)) if found.split else drawn)
    return [sentence for sentence in said if sentence]
