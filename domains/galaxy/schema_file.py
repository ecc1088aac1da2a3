"""Values of a YAML file that know their line, so that a mistake in a schema is named where it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import yaml

from sciencessl.errors import ConfigError, did_you_mean

_UNQUOTED = {"tag:yaml.org,2002:bool": "a boolean", "tag:yaml.org,2002:int": "a number",
             "tag:yaml.org,2002:float": "a number"}
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class Entry:
    """One value of a YAML file. Nothing is constructed from the file but text, lists and names.

    Attributes:
        node: What the parser found; its tag tells an unquoted `yes` from a quoted one.
        file: The file in words, such as `schema file 'mine.yaml'`.
        path: Names that lead to the value, for people.
    """

    node: yaml.Node
    file: str
    path: tuple[str, ...] = ()

    def error(self, what: str) -> ConfigError:
        """An error that names file, line and value."""
        return ConfigError(f"{', '.join((self.file, f'line {self.node.start_mark.line + 1}', *self.path))}: {what}")

    def renamed(self, word: str) -> Entry:
        """Another text in this place."""
        return replace(self, node=yaml.ScalarNode(_TEXT, word, self.node.start_mark))

    @property
    def empty(self) -> bool:
        """Whether nothing or null was written."""
        return bool(self.node.tag == _NULL)

    @property
    def is_text(self) -> bool:
        """Whether this is one word and no list or mapping."""
        return isinstance(self.node, yaml.ScalarNode)

    def text(self) -> str:
        """The text.

        Raises:
            ConfigError: For anything else; an unquoted yes, no or number is told to be quoted.
        """
        if not self.is_text:
            kind = "a list" if isinstance(self.node, yaml.SequenceNode) else "`name: value` entries"
            raise self.error(f"expected text, got {kind}.")
        word = str(self.node.value)
        if self.empty:
            raise self.error("expected text, got nothing.")
        if self.node.tag in _UNQUOTED:
            kind = _UNQUOTED[self.node.tag]
            raise self.error(f'YAML reads an unquoted {word} as {kind}; write it in quotes: "{word}".')
        return word

    def texts(self) -> list[Entry]:
        """The entries of a list of texts, or of one text.

        Raises:
            ConfigError: For anything else.
        """
        listed = self.node.value if isinstance(self.node, yaml.SequenceNode) else [self.node]
        entries = [Entry(node, self.file, self.path) for node in listed]
        for entry in entries:
            entry.text()
        return entries

    def entries(self, known: tuple[str, ...] = ()) -> dict[str, Entry]:
        """Name -> value, in file order.

        Args:
            known: The names there may be; empty allows any.

        Raises:
            ConfigError: When this is not a mapping, a name is not text or is given twice (plain YAML would keep the
                last in silence), or is not among `known`.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error("expected `name: value` entries.")
        found: dict[str, Entry] = {}
        for key, value in self.node.value:
            name = Entry(key, self.file, (*self.path, "key")).text()
            if name in found:
                raise Entry(key, self.file, self.path).error(f"{name!r} is given twice.")
            if known and name not in known:
                said = f"unknown key {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."
                raise Entry(key, self.file, self.path).error(said)
            found[name] = Entry(value, self.file, (*self.path, name))
        return found


def read_yaml(text: bytes, file: str) -> Entry:
    """Parse a YAML file without constructing anything from it.

    Args:
        text: Its bytes.
        file: The file in words, for errors.

    Raises:
        ConfigError: For text that is no YAML or is empty.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{file}{place}: not readable as YAML ({problem}).") from error
    if node is None:
        raise ConfigError(f"{file}: the file is empty.")
    return Entry(node, file)
