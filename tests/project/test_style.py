"""The style budget of CONTRIBUTING.md, measured: short functions, short files, a contract on each public name."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SOURCES = ("sciencessl", "domains", "data_prep", "configs")
LONGEST_FUNCTION, MEDIAN_FUNCTION, LONGEST_FILE = 60, 9, 400
NAMELESS = {"utils", "util", "helpers", "helper", "misc"}
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files(root: Path) -> list[Path]:
    return sorted(path for folder in SOURCES for path in (root / folder).rglob("*.py"))


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: neither blank nor only a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {line for t in tokens if t.type not in SILENT for line in range(t.start[0], t.end[0] + 1)}


def span(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def docstring_lines(function: Function) -> set[int]:
    return set() if ast.get_docstring(function) is None else span(function.body[0])


def function_lengths(source: str) -> dict[str, int]:
    """`name:line` of every function, nested ones too -> its code lines, signature included, docstring not."""
    lines = code_lines(source)
    return {
        f"{node.name}:{node.lineno}": len(lines & span(node) - docstring_lines(node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, Function)
    }


def public_names(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public classes, functions and methods with their dotted names; what a function defines inside is left out."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public_names(child, f"{prefix}{child.name}.")


def constructors(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    for name, node in public_names(tree):
        if isinstance(node, ast.ClassDef):
            found = (child for child in node.body if isinstance(child, Function) and child.name == "__init__")
            yield from ((f"{name}.__init__", child) for child in found)


def bare_arguments(function: Function, is_method: bool) -> list[str]:
    """Names of the arguments without a type, and `return` when that is missing; self and cls need none."""
    spec = function.args
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    ordered = [*spec.posonlyargs, *spec.args][1 if is_method and not static else 0 :]
    every = [*ordered, *spec.kwonlyargs, *(a for a in (spec.vararg, spec.kwarg) if a)]
    return [a.arg for a in every if a.annotation is None] + (["return"] if function.returns is None else [])


def is_variant(node: Function | ast.ClassDef) -> bool:
    """An overload or a property setter: the first definition speaks for it."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(decorators & {"overload", "setter", "deleter"})


def contract_faults(source: str) -> list[str]:
    """Public names without a docstring, or with arguments of no type."""
    tree = ast.parse(source)
    names = dict(public_names(tree))
    faults = [f"{name} has no docstring" for name, n in names.items() if not is_variant(n) and not ast.get_docstring(n)]
    for name, node in [*names.items(), *constructors(tree)]:
        if isinstance(node, Function):
            bare = bare_arguments(node, is_method="." in name)
            faults += [f"{name} does not annotate {', '.join(bare)}"] if bare else []
    return faults


def long_files(root: Path) -> dict[str, int]:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in source_files(root)}
    return {str(path.relative_to(root)): n for path, n in lengths.items() if n > LONGEST_FILE}


def nameless(root: Path) -> list[str]:
    """Files and folders whose name says nothing of what they hold."""
    everything = (path for folder in (*SOURCES, "tests", "benchmarks") for path in (root / folder).rglob("*"))
    return sorted(str(path.relative_to(root)) for path in everything if path.stem in NAMELESS)


def test_no_function_is_longer_than_the_budget() -> None:
    long = [
        f"{path.relative_to(REPO)}: {name} has {length} code lines"
        for path in source_files(REPO)
        for name, length in function_lengths(path.read_text(encoding="utf-8")).items()
        if length > LONGEST_FUNCTION
    ]
    assert long == []


def test_the_median_function_fits_half_a_screen() -> None:
    lengths = [n for path in source_files(REPO) for n in function_lengths(path.read_text(encoding="utf-8")).values()]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION


def test_no_file_is_longer_than_the_budget() -> None:
    assert long_files(REPO) == {}


def test_every_file_and_folder_is_named_for_what_it_holds() -> None:
    assert nameless(REPO) == []


def test_every_public_name_is_documented_and_annotated() -> None:
    faults = [
        f"{path.relative_to(REPO)}: {fault}"
        for path in source_files(REPO)
        for fault in contract_faults(path.read_text(encoding="utf-8"))
    ]
    assert faults == []


def test_length_counts_code_and_nothing_else() -> None:
    source = '''
@cache
def f(
    x: int,
) -> str:
    """Two lines
    of words."""
    # a comment

    y = """one
    value"""

    def g() -> None: ...
    return y
'''
    assert function_lengths(source) == {"f:3": 7, "g:13": 1}


def test_a_function_of_61_lines_is_too_long() -> None:
    body = "\n".join(f"    x{i} = {i}" for i in range(60))
    assert function_lengths(f"def f() -> None:\n{body}\n") == {"f:1": LONGEST_FUNCTION + 1}


def test_a_file_of_401_lines_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "fits.py").write_text("x = 1\n" * LONGEST_FILE)
    (tmp_path / "domains" / "long.py").write_text("x = 1\n" * (LONGEST_FILE + 1))
    assert long_files(tmp_path) == {"domains/long.py": LONGEST_FILE + 1}


def test_a_file_named_for_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "sciencessl" / "helpers").mkdir(parents=True)
    (tmp_path / "sciencessl" / "utils.py").touch()
    assert nameless(tmp_path) == ["sciencessl/helpers", "sciencessl/utils.py"]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("def f() -> None: ...", ["f has no docstring"]),
        ("class C: ...", ["C has no docstring"]),
        ("class C:\n  'd'\n  def m(self) -> int: ...", ["C.m has no docstring"]),
        ("def f(a, *b, c: int, **d) -> None: 'd'", ["f does not annotate a, b, d"]),
        ("def f(): 'd'", ["f does not annotate return"]),
        ("class C:\n  'd'\n  def __init__(self, a) -> None: ...", ["C.__init__ does not annotate a"]),
        ("class C:\n  'd'\n  @staticmethod\n  def m(a) -> int: 'd'", ["C.m does not annotate a"]),
        ("class C:\n  'd'\n  @classmethod\n  def m(cls, a: int) -> int: 'd'", []),
        ("class C:\n  'd'\n  @overload\n  def m(self) -> int: ...", []),
        ("def _f(a): ...", []),
        ("def f() -> None:\n  'd'\n  def g(a): ...", []),
    ],
)
def test_a_missing_contract_is_found(source: str, faults: list[str]) -> None:
    assert contract_faults(source) == faults
