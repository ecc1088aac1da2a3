"""Vote schemas of Galaxy Zoo campaigns, and of yours, as YAML.

One file is one campaign::

    name: rings                    # short name, as on the command line
    title: One line for people
    suffix: -r1                    # campaign, appended to question names so that campaigns never share a column; or ""
    source: Where answers and tree were read
    questions:
      smooth-or-featured: {answers: [smooth, featured-or-disk, artifact], after: null}
      ring:
        answers: ["yes", "no"]     # YAML reads an unquoted yes, no or 1 as something else than text: quote them
        after: [smooth-or-featured_smooth, smooth-or-featured_featured-or-disk]
    aliases:
      ring_count_yes: ring_yes                                    # a catalogue's column -> ours
      ring: {t12_ring: {a40_yes: "yes", a41_no: "no"}}            # t12_ring_a40_yes_count -> ring_yes, and so on

`after` is null for a question that everybody is asked, else one answer column or a list of them, any of which leads to
the question. `after` and `aliases` name columns as `question_answer`, without the campaign. Loading adds the name
without campaign of every column as one more alias, because releases often drop it.

Shipped: the files in `schemas/`, each saying in `source` where its tree differs from galaxy-datasets and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sciencessl.errors import ConfigError, did_you_mean, unknown_name
from sciencessl.spec import LabelSchema, Question

_KEYS = ("name", "title", "suffix", "source", "questions", "aliases")


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice: plain YAML keeps the last and loses a question in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            word = str(key.value)
            if word in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {word!r} is given twice", key.start_mark)
            seen.add(word)
        return super().construct_mapping(node, deep=deep)


def schema_names() -> tuple[str, ...]:
    """Names of the shipped schemas, sorted: one for each YAML file in `schemas/`."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def load_schema(name_or_path: str | Path) -> LabelSchema:
    """Load a shipped schema by name, or one of yours from a YAML file.

    Args:
        name_or_path: A name of `schema_names`, or the path of a `.yaml` or `.yml` file in the format above.

    Returns:
        The schema, its questions carrying the campaign suffix, its aliases including names without it.

    Raises:
        ConfigError: For a name that does not exist, a missing or unreadable file, an unknown key, an answer that YAML
            did not read as text, or a tree that `LabelSchema` refuses.
    """
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in schema_names():
        return _parse((_folder() / f"{name}.yaml").read_bytes(), f"schema {name!r}")
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{unknown_name('label schema', name, schema_names())} A file of yours must end in .yaml.")
    if not path.is_file():
        raise ConfigError(f"label schema {name!r}: no such file. Shipped schemas: {', '.join(schema_names())}.")
    return _parse(path.read_bytes(), f"schema file {name!r}")


def match_columns(schema: LabelSchema, catalogue_columns: Sequence[str], allow_partial: bool = False) -> dict[str, str]:
    """Find the columns of a schema in a catalogue: by name first, then by alias.

    Args:
        schema: As `load_schema` returns it.
        catalogue_columns: Column names of the catalogue.
        allow_partial: Leave out questions of which the catalogue has no column at all, instead of refusing.

    Returns:
        Our column -> catalogue column, in schema order; whole questions only.

    Raises:
        ConfigError: When columns are missing (with `allow_partial`: when a question has some of its columns but not
            all, or no question is there), or when two columns of the catalogue spell the same column of ours.
    """
    present = set(catalogue_columns)
    found = {column: _spelling(schema, column, present) for column in schema.columns}
    matched = {column: name for column, name in found.items() if name is not None}
    asked = {schema.question_of[column] for column in matched}
    missing = [c for c in schema.columns if c not in matched and (not allow_partial or schema.question_of[c] in asked)]
    if missing or not matched:
        _raise_missing(schema, missing or list(schema.columns), catalogue_columns, allow_partial)
    return matched


def _folder() -> Any:
    return resources.files("sciencessl.domains.galaxy") / "schemas"


def _spelling(schema: LabelSchema, column: str, present: set[str]) -> str | None:
    if column in present:
        return column
    spellings = [name for name, ours in schema.aliases.items() if ours == column and name in present]
    if len(spellings) > 1:
        raise ConfigError(
            f"schema {schema.name!r}: the catalogue spells column {column!r} more than once: {', '.join(spellings)}. "
            f"Drop all but one, or rename the right one to {column!r}."
        )
    return spellings[0] if spellings else None


def _raise_missing(schema: LabelSchema, missing: list[str], given: Sequence[str], allow_partial: bool) -> None:
    first = missing[0]
    also = sorted(name for name, ours in schema.aliases.items() if ours == first)
    spelled = f" {first!r} may also be called {', '.join(also)}." if also else ""
    partly = "Questions that are only partly there cannot be used" if allow_partial else "All questions are needed"
    raise ConfigError(
        f"schema {schema.name!r} has {len(missing)} column(s) that the catalogue lacks: {', '.join(missing)}."
        f"{did_you_mean(first, given)}{spelled} {partly}: add the columns, choose another schema, or allow partial "
        f"matches by whole questions. The catalogue has: {', '.join(given)}."
    )


def _parse(text: bytes, where: str) -> LabelSchema:
    try:
        # A subclass of SafeLoader, so nothing from a stranger's file is constructed but plain values.
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML ({error}). See sciencessl.domains.galaxy.schema.") from error
    entries = _mapping(values, where)
    for key in entries:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    suffix = _text(entries.get("suffix", ""), f"{where}, suffix")
    tables = _mapping(entries.get("questions"), f"{where}, questions")
    answers = {name: _answers(table, f"{where}, question {name!r}") for name, table in tables.items()}
    full = {f"{q}_{a}": f"{q}{suffix}_{a}" for q, listed in answers.items() for a in listed}
    questions = tuple(
        Question(f"{q}{suffix}", answers[q], _parents(tables[q].get("after"), full, f"{where}, question {q!r}, after"))
        for q in tables
    )
    aliases = dict(_aliases(_mapping(entries.get("aliases", {}), f"{where}, aliases"), full, f"{where}, aliases"))
    bare = {short: column for short, column in full.items() if short != column and short not in aliases}
    name = _text(entries.get("name"), f"{where}, name")
    title, source = (_text(entries.get(key, ""), f"{where}, {key}") for key in ("title", "source"))
    return LabelSchema(name, questions, {**aliases, **bare}, title, source)


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        word = "yes" if value else "no"
        raise ConfigError(f'{where}: YAML reads an unquoted {word} as a boolean; write it in quotes: "{word}".')
    if isinstance(value, int | float):
        raise ConfigError(f'{where}: YAML reads {value} as a number; write it in quotes: "{value}".')
    raise ConfigError(f"{where}: expected text, got {value!r}; write it in quotes if it is meant as text.")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected `name: value` entries, got {value!r}.")
    return {_text(key, f"{where}, key"): entry for key, entry in value.items()}


def _answers(table: Any, where: str) -> tuple[str, ...]:
    entries = _mapping(table, where)
    unknown = sorted(set(entries) - {"answers", "after"})
    if unknown or not isinstance(entries.get("answers"), list):
        raise ConfigError(f"{where}: expected `answers`, a list, and `after`, got {', '.join(entries)}.")
    return tuple(_text(answer, f"{where}, answers") for answer in entries["answers"])


def _parents(after: Any, full: Mapping[str, str], where: str) -> tuple[str, ...]:
    listed = [] if after is None else after if isinstance(after, list) else [after]
    return tuple(_column(_text(parent, where), full, where) for parent in listed)


def _column(short: str, full: Mapping[str, str], where: str) -> str:
    if short not in full:
        raise ConfigError(
            f"{where}: no answer column {short!r}; columns are written question_answer, without the campaign."
            f"{did_you_mean(short, full)} Known: {', '.join(full)}."
        )
    return full[short]


def _aliases(table: Mapping[str, Any], full: Mapping[str, str], where: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, str):
            yield key, _column(value, full, where)
            continue
        for stem, spelled in _mapping(value, f"{where}, {key!r}").items():
            for part, answer in _mapping(spelled, f"{where}, {stem!r}").items():
                yield f"{stem}_{part}_count", _column(f"{key}_{_text(answer, f'{where}, {stem!r}')}", full, where)


SCHEMAS: Mapping[str, LabelSchema] = {_name: load_schema(_name) for _name in schema_names()}
"""Name -> schema for the shipped campaigns: gz2, gzd5, gzd12 and hubble."""
