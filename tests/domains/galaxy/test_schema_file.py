"""Values of a YAML file with their lines: nothing is constructed, and every mistake says where it stands."""

from __future__ import annotations

import pytest

from sciencessl.domains.galaxy.schema_file import read_yaml
from sciencessl.errors import ConfigError

FILE = b"""name: rings
parts:
  - one
  - "2"
none: ~
tree:
  a: {b: no}
"""


def test_values_and_where_they_stand() -> None:
    found = read_yaml(FILE, "file f").entries()
    assert list(found) == ["name", "parts", "none", "tree"]
    assert found["name"].text() == "rings"
    assert [entry.text() for entry in found["parts"].texts()] == ["one", "2"]
    assert [entry.text() for entry in found["name"].texts()] == ["rings"]
    assert found["none"].empty
    assert not found["name"].empty
    inner = found["tree"].entries()["a"].entries()["b"]
    assert str(inner.error("wrong.")) == "file f, line 7, tree, a, b: wrong."
    assert str(inner.renamed("other").error("wrong.")) == "file f, line 7, tree, a, b: wrong."
    assert inner.renamed("no").text() == "no"


def test_what_yaml_reads_as_something_else_is_told_as_it_is_written() -> None:
    for word, kind in (("no", "a boolean"), ("True", "a boolean"), ("0x10", "a number"), ("1.50", "a number")):
        entry = read_yaml(f"a: {word}".encode(), "f").entries()["a"]
        with pytest.raises(ConfigError, match=f'f, line 1, a: YAML reads an unquoted {word} as {kind}; .*"{word}"'):
            entry.text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "f: the file is empty"),
        (b"# a comment\n", "f: the file is empty"),
        (b"a: [", r"f, line 1: not readable as YAML \(expected the node content"),
        (b"\xff\xfe\xff", "f: not readable as YAML"),
        (b"- a", "f, line 1: expected `name: value` entries"),
        (b"a: 1\na: 2", "f, line 2: 'a' is given twice"),
        (b"b: 1", "f, line 1: unknown key 'b'. .*Known: a"),
        (b"1: a", "f, line 1, key: YAML reads an unquoted 1 as a number"),
        (b"a: !!python/object:os.system x", ""),
    ],
)
def test_files_that_are_none(text: bytes, says: str) -> None:
    if not says:  # a tag from a stranger is never constructed
        assert read_yaml(text, "f").entries()["a"].text() == "x"
        return
    with pytest.raises(ConfigError, match=says):
        read_yaml(text, "f").entries(("a",))
