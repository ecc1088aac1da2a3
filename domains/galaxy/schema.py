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
the question. `after` and `aliases` name columns as `question_answer`, without the campaign. Names without the campaign
need no alias: releases often drop it, and catalogues are searched for them too.

A campaign that is mostly another one takes its questions from there, and nothing else (no aliases, no suffix)::

    name: euclid
    suffix: -euclid
    base: cosmic-dawn              # a shipped schema, or a file beside this one
    replace: {bar: {answers: [strong, weak, "no"], after: disk-edge-on_no}}     # in the place of the base's question
    add: {ring: {answers: ["yes", "no"], after: null}}                          # behind the base's questions

Several campaigns make one schema, whose columns are those of all, so that one model learns from all of them::

    name: all
    campaigns: [gz2, gzd5, mine.yaml]

Their questions must have different names, so each needs a suffix of its own. An alias that two of them read differently
is left out.

Shipped: the files in `schemas/`, each saying in `source` where its tree differs from galaxy-datasets and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sciencessl.domains.galaxy.schema_file import Entry, read_yaml
from sciencessl.errors import ConfigError, did_you_mean, unknown_name
from sciencessl.spec import LabelSchema, Question

_KINDS = ("questions", "base", "campaigns")
_KEYS = ("name", "title", "suffix", "source", *_KINDS, "replace", "add", "aliases")


def schema_names() -> tuple[str, ...]:
    """Names of the shipped schemas, sorted: one for each YAML file in `schemas/`."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def load_schema(name_or_path: str | Path) -> LabelSchema:
    """Load a shipped schema by name, or one of yours from a YAML file.

    Args:
        name_or_path: A name of `schema_names`, or the path of a `.yaml` or `.yml` file in the format above.

    Returns:
        The schema, its questions carrying the campaign suffix.

    Raises:
        ConfigError: For a name that does not exist, a missing or unreadable file, an unknown key, an answer that YAML
            did not read as text, a base that leads back to itself, campaigns that share a question, or a tree that
            `LabelSchema` refuses. What stands in a file is named with its line.
    """
    return _parse(_open(name_or_path, Path(), ()))


@dataclass(frozen=True)
class _File:
    """A schema file: its entries, where files beside it lie, and the files that lead to it, itself last."""

    entries: Mapping[str, Entry]
    folder: Path
    chain: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    """A question without its campaign."""

    answers: tuple[str, ...]
    after: tuple[Entry, ...]


def _folder() -> Any:
    return resources.files("sciencessl.domains.galaxy") / "schemas"


@cache
def _shipped(name: str) -> Entry:
    return read_yaml((_folder() / f"{name}.yaml").read_bytes(), f"schema {name!r}")


def _open(name_or_path: str | Path, folder: Path, chain: tuple[str, ...]) -> _File:
    name, path = str(name_or_path), folder / name_or_path
    if isinstance(name_or_path, str) and name in schema_names():
        return _checked(_shipped(name), folder, chain, name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{unknown_name('label schema', name, schema_names())} A file of yours must end in .yaml.")
    if not path.is_file():
        raise ConfigError(f"label schema {str(path)!r}: no such file. Shipped schemas: {', '.join(schema_names())}.")
    file = read_yaml(path.read_bytes(), f"schema file {str(path)!r}")
    return _checked(file, path.parent, chain, str(path.resolve()))


def _checked(file: Entry, folder: Path, chain: tuple[str, ...], name: str) -> _File:
    entries = file.entries(_KEYS)
    kinds = [kind for kind in _KINDS if kind in entries]
    if "name" not in entries or len(kinds) != 1:
        raise file.error(f"a schema needs `name` and one of {', '.join(_KINDS)}; got {', '.join(entries)}.")
    allowed = {"questions": ("suffix",), "base": ("suffix", "replace", "add"), "campaigns": ()}[kinds[0]]
    for key in set(_KEYS) - {"name", "title", "source", "aliases", *kinds, *allowed}:
        if key in entries:
            raise entries[key].error(f"does not go with `{kinds[0]}`.")
    return _File(entries, folder, (*chain, name))


def _other(entry: Entry, file: _File) -> _File:
    """The schema that another one names."""
    try:
        other = _open(entry.text(), file.folder, file.chain)
    except ConfigError as error:
        raise entry.error(str(error)) from error
    if other.chain[-1] in file.chain:
        raise entry.error(f"leads back to itself: {' -> '.join(other.chain)}.")
    return other


def _parse(file: _File) -> LabelSchema:
    name = file.entries["name"].text()
    title, source = (file.entries[key].text() if key in file.entries else "" for key in ("title", "source"))
    if "campaigns" in file.entries:
        questions, aliases = _merged(file)
        full = {column: column for question in questions for column in question.columns}
    else:
        suffix_entry = file.entries.get("suffix")
        suffix, asked, aliases = "" if suffix_entry is None else suffix_entry.text(), _asked(file), {}
        full = {f"{q}_{a}": f"{q}{suffix}_{a}" for q, table in asked.items() for a in table.answers}
        questions = tuple(
            Question(f"{q}{suffix}", table.answers, tuple(_column(parent, full) for parent in table.after))
            for q, table in asked.items()
        )
    if "aliases" in file.entries:
        aliases = {**aliases, **dict(_aliases(file.entries["aliases"], full))}
    return LabelSchema(name, questions, aliases, title, source)


def _merged(file: _File) -> tuple[tuple[Question, ...], dict[str, str]]:
    """All campaigns' questions, and those aliases that no two of them read differently."""
    asked_by: dict[str, str] = {}
    read: dict[str, set[str]] = {}
    questions: list[Question] = []
    for entry in file.entries["campaigns"].texts():
        schema = _parse(_other(entry, file))
        for question in schema.questions:
            if question.name in asked_by:
                raise entry.error(
                    f"campaigns {asked_by[question.name]!r} and {schema.name!r} both ask {question.name!r}; columns "
                    "would mix. Give each campaign a suffix of its own."
                )
            asked_by[question.name] = schema.name
        questions += schema.questions
        for alias, column in schema.aliases.items():
            read.setdefault(alias, set()).add(column)
    return tuple(questions), {alias: min(columns) for alias, columns in read.items() if len(columns) == 1}


def _asked(file: _File) -> dict[str, _Asked]:
    """The questions of one campaign, without its suffix."""
    if "campaigns" in file.entries:
        raise file.entries["campaigns"].error("a base must be one campaign.")
    if "questions" in file.entries:
        return {name: _question(table) for name, table in file.entries["questions"].entries().items()}
    base = _asked(_other(file.entries["base"], file))
    found = dict(base)
    for key, replaces in (("replace", True), ("add", False)):
        for name, table in file.entries[key].entries().items() if key in file.entries else ():
            if (name in base) != replaces:
                said = "no such question of the base." if replaces else "the base has this question; use `replace`."
                raise table.error(f"{said}{did_you_mean(name, base) if replaces else ''} It has: {', '.join(base)}.")
            found[name] = _question(table)
    return found


def _question(table: Entry) -> _Asked:
    entries = table.entries(("answers", "after"))
    if "answers" not in entries or "after" not in entries:
        raise table.error(f"needs `answers`, a list, and `after`; got {', '.join(entries) or 'nothing'}.")
    after = entries["after"]
    answers = tuple(answer.text() for answer in entries["answers"].texts())
    if len(answers) < 2 or len(set(answers)) < len(answers):
        raise entries["answers"].error(f"needs two or more different answers, got {', '.join(answers)}.")
    return _Asked(answers, () if after.empty else tuple(after.texts()))


def _column(short: Entry, full: Mapping[str, str]) -> str:
    name = short.text()
    if name not in full:
        raise short.error(
            f"no answer column {name!r}; columns are written question_answer, without the campaign."
            f"{did_you_mean(name, full)} Known: {', '.join(full)}."
        )
    return full[name]


def _aliases(table: Entry, full: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in table.entries().items():
        if value.is_text:
            yield key, _column(value, full)
            continue
        for stem, spelled in value.entries().items():
            for part, answer in spelled.entries().items():
                yield f"{stem}_{part}_count", _column(answer.renamed(f"{key}_{answer.text()}"), full)


SCHEMAS: Mapping[str, LabelSchema] = {_name: load_schema(_name) for _name in schema_names()}
"""Name -> schema, for all that are shipped."""
