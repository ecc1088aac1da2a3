"""Dependencies point one way: domains -> data_prep -> sciencessl; costly libraries load where they are used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPO = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "sciencessl": ("sciencessl.domains", "sciencessl.data_prep"),
    "data_prep": ("sciencessl.domains",),
    "domains": (),
    "configs": ("sciencessl",),
}
"""Folder -> packages that nothing in it imports, at any depth."""

LINKED = ("domains", "data_prep", "configs")
MAY_NAME_OTHERS = ("sciencessl/registry.py", "sciencessl/cli.py")
OPTIONAL = ("astropy", "faiss", "imagecodecs", "openslide", "pydicom", "ray", "reproject", "tifffile", "wsidicom")
"""Libraries that an extra or the user brings: imported inside the functions that need them, or not at all."""

PARSERS = ("sciencessl/config.py", "sciencessl/cli.py")
VERBS = tuple(sorted(f"sciencessl/verbs/{path.name}" for path in (REPO / "sciencessl" / "verbs").glob("*.py")))
TORCH_FREE = (*(f"sciencessl/{stem}.py" for stem in ("spec", "errors", "registry", "config", "cli")), *VERBS)


class Import(NamedTuple):
    module: str
    line: int
    at_top: bool
    """Runs when the file is imported: outside every function, and not for type checkers only."""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(node: ast.AST, at_top: bool = True) -> Iterator[Import]:
    """Every import below a node; `from a import b` counts as `a` and `a.b`, since b may be a module."""
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, at_top) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        yield Import(base, node.lineno, at_top)
        yield from (Import(f"{base}.{alias.name}", node.lineno, at_top) for alias in node.names)
    deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    if is_type_checking(node):
        yield from (found for child in node.body for found in imports(child, False))
        yield from (found for child in node.orelse for found in imports(child, at_top))
        return
    for child in ast.iter_child_nodes(node):
        yield from imports(child, at_top and not deferred)


def prose(tree: ast.AST) -> set[int]:
    """Identities of the constants that are docstrings: strings that stand alone as a statement."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def named_packages(tree: ast.AST, packages: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Packages that a string of the code names, with the line; docstrings are free to."""
    skipped = prose(tree)
    pattern = re.compile("|".join(rf"\b{re.escape(package)}\b" for package in packages) or r"(?!)")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield from ((hit, node.lineno) for hit in sorted(set(pattern.findall(node.value))))


def import_faults(name: str, found: Import) -> Iterator[str]:
    """What is wrong with one import of the file of that name, as sentences without their place."""
    folder, root = name.split("/")[0], found.module.split(".")[0]
    if root == "":
        yield f"imports {found.module} relatively: write the absolute name"
    if root in LINKED:
        yield f"imports {found.module}: that is sciencessl.{found.module} once installed"
    for package in FORBIDDEN[folder]:
        if within(found.module, package):
            yield f"imports {found.module}: {folder} does not depend on {package}"
    if found.at_top and root in OPTIONAL:
        yield f"imports {found.module} on loading: import it inside the function that reads the file"
    if root == "jsonargparse" and name not in PARSERS:
        yield f"imports {found.module}: only {' and '.join(PARSERS)} parse settings"
    if found.at_top and root == "torch" and name in TORCH_FREE:
        yield f"imports {found.module} on loading: this file is read before any command starts"


def violations(root: Path) -> list[str]:
    """Every broken rule below the root, as `file:line what`, sorted and without repetition."""
    broken = set()
    for path in (file for folder in FORBIDDEN for file in (root / folder).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for found in imports(tree):
            broken.update(f"{name}:{found.line} {fault}" for fault in import_faults(name, found))
        if name not in MAY_NAME_OTHERS:
            named = named_packages(tree, FORBIDDEN[name.split("/")[0]])
            broken.update(f"{name}:{line} names {package} in a string" for package, line in named)
    return sorted(broken)


def test_no_arrow_points_back() -> None:
    assert violations(REPO) == []


def test_the_check_reads_each_file_once() -> None:
    files = [path for folder in FORBIDDEN for path in (REPO / folder).rglob("*.py")]
    assert len({path.resolve() for path in files}) == len(files) > 0


def test_verbs_ask_the_registry_which_domains_there_are() -> None:
    domains = tuple(path.parent.name for path in (REPO / "domains").glob("*/__init__.py"))
    trees = {name: ast.parse((REPO / name).read_text(encoding="utf-8")) for name in VERBS}
    assert [(name, *hit) for name, tree in trees.items() for hit in named_packages(tree, domains)] == []
    assert list(named_packages(ast.parse("default = 'galaxy'"), domains)) == [("galaxy", 1)]


PLANTED = [
    ("sciencessl/train/run.py", "from sciencessl.domains.galaxy import SPEC", "does not depend on sciencessl.domains"),
    ("sciencessl/store/reader.py", "from sciencessl import data_prep", "does not depend on sciencessl.data_prep"),
    ("sciencessl/train/run.py", "def f():\n    import sciencessl.domains.web", "does not depend on sciencessl.domains"),
    ("sciencessl/registry.py", "import sciencessl.domains", "does not depend on sciencessl.domains"),
    (
        "sciencessl/train/run.py",
        "if TYPE_CHECKING:\n    from sciencessl.data_prep.split import Split",
        "does not depend on sciencessl.data_prep",
    ),
    ("sciencessl/train/run.py", "load('sciencessl.domains.galaxy:SPEC')", "names sciencessl.domains in a string"),
    ("sciencessl/verbs/data.py", "load('sciencessl.domains.galaxy:SPEC')", "names sciencessl.domains in a string"),
    ("sciencessl/train/run.py", "f'sciencessl.domains.{name}'", "names sciencessl.domains in a string"),
    ("sciencessl/train/run.py", "from domains.galaxy import SPEC", "that is sciencessl.domains.galaxy once installed"),
    ("sciencessl/train/run.py", "from ..domains import galaxy", "relatively"),
    ("data_prep/split.py", "from sciencessl.domains.galaxy.schema import GZD5", "data_prep does not depend on"),
    ("data_prep/split.py", "SPEC = 'sciencessl.domains.galaxy:SPEC'", "names sciencessl.domains in a string"),
    ("configs/__init__.py", "from sciencessl.config import RunConfig", "configs does not depend on sciencessl"),
    ("domains/galaxy/sources.py", "from astropy.io import fits", "astropy.io on loading"),
    ("data_prep/slides/reader.py", "try:\n    import openslide\nexcept ImportError: ...", "openslide on loading"),
    ("data_prep/slides/reader.py", "class Slide:\n    import openslide", "openslide on loading"),
    ("sciencessl/evaluate/knn.py", "import jsonargparse", "parse settings"),
    ("sciencessl/evaluate/knn.py", "def f():\n    from jsonargparse import CLI", "parse settings"),
    *((name, "from torch import Tensor", "read before any command starts") for name in TORCH_FREE),
]


@pytest.mark.parametrize(("name", "code", "fault"), PLANTED)
def test_a_planted_violation_is_found(name: str, code: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(code)
    found = violations(tmp_path)
    assert found
    assert all(line.startswith(f"{name}:") for line in found)
    assert any(fault in line for line in found)


ALLOWED = [
    ("sciencessl/registry.py", "PREPARE = 'sciencessl.data_prep.engine:prepare'"),
    ("sciencessl/cli.py", "from sciencessl.config import RunConfig\nimport jsonargparse\nload('sciencessl.domains')"),
    ("sciencessl/cli.py", "def pretrain():\n    import torch"),
    ("sciencessl/spec.py", "if TYPE_CHECKING:\n    from torch import Tensor"),
    ("sciencessl/testing/kit.py", "'''Third parties join through the entry-point group sciencessl.domains.'''"),
    ("sciencessl/losses/byol.py", "import torch\nfrom sciencessl.data.order import Order"),
    ("data_prep/cutouts.py", "from sciencessl.spec import DomainSpec\ndef read():\n    from astropy.io import fits"),
    ("domains/galaxy/sources.py", "from sciencessl.data_prep.write import write\nfrom sciencessl.domains import web"),
]


@pytest.mark.parametrize(("name", "code"), ALLOWED)
def test_what_the_rules_allow_passes(name: str, code: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(code)
    assert violations(tmp_path) == []
