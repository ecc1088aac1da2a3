"""What users install: one top-level package, whole through its three links, on dependencies we can stand behind."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
LINKS = ("domains", "data_prep", "configs")
SHIPPED = {
    "sciencessl": (".py", ".typed", ".j2", ".css"),
    "domains": (".py", ".yaml", ".md"),
    "data_prep": (".py", ".j2"),
    "configs": (".py", ".yaml"),
}
"""Folder -> endings of the tracked files that the wheel must hold."""

REFUSED = re.compile(r"albumentations[-_]?x|lightly[-_]train", re.IGNORECASE)
"""Packages under AGPL. Prose may say that we avoid them, so Markdown is not searched."""


def tracked_files() -> list[Path]:
    """Files and links under version control that are present, relative to the repository."""
    if not (REPO / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True, text=True).stdout
    named = [Path(name) for name in listing.split("\0") if name]
    return [path for path in named if (REPO / path).exists() or (REPO / path).is_symlink()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy of the tracked files, so that the checkout gains no build folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (archive,) = out.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


@pytest.mark.parametrize("name", LINKS)
def test_each_link_is_relative_and_stays_inside(name: str) -> None:
    link = REPO / "sciencessl" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.resolve() == REPO / name
    assert link.is_dir()


def test_links_are_committed_as_links() -> None:
    assert {Path("sciencessl") / name for name in LINKS} <= set(tracked_files())


def test_sciencessl_is_the_only_top_level_name(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sciencessl"}


def test_the_wheel_holds_every_module_and_preset(wheel: list[str]) -> None:
    tracked = [path for path in tracked_files() if path.suffix in SHIPPED.get(path.parts[0], ())]
    installed = [path if path.parts[0] == "sciencessl" else "sciencessl" / path for path in tracked]
    assert [path.as_posix() for path in installed if path.as_posix() not in wheel] == []


def test_the_wheel_holds_the_three_linked_packages(wheel: list[str]) -> None:
    assert {f"sciencessl/{name}/__init__.py" for name in LINKS} <= set(wheel)
    assert any(re.fullmatch(r"sciencessl/configs/.+\.yaml", name) for name in wheel)
    assert "sciencessl/py.typed" in wheel


def test_the_wheel_holds_the_licence_and_no_tests(wheel: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
    assert not [name for name in wheel if "/tests/" in name or name.startswith("tests/")]


def project() -> dict[str, Any]:
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[str]:
    """Every requirement of the project and its extras, our own extras left out."""
    table = project()
    listed = [*table["dependencies"], *(r for extra in table["optional-dependencies"].values() for r in extra)]
    return [requirement for requirement in listed if not requirement.startswith("sciencessl[")]


def unexplained(text: str) -> list[str]:
    """Lines of a pyproject.toml that hold a requirement and no comment after it."""
    block = re.search(r"^dependencies = \[$(.*?)^\[project\.scripts\]", text, re.DOTALL | re.MULTILINE)
    lines = block.group(1).splitlines() if block else []
    held = [line for line in lines if re.search(r'^\s+"|= \["', line) and '"sciencessl[' not in line]
    return [line.strip() for line in held if not re.search(r'[",\]]\s+#\s*\w', line)]


def test_every_dependency_has_a_reason() -> None:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert unexplained(text) == []


def test_a_dependency_without_a_reason_is_found() -> None:
    listed = 'dependencies = [\n  "a>=1",  # 1: why\n  "b>=2",\n]\n[x]\nextra = ["c"]\nall = ["sciencessl[extra]"]\n'
    assert unexplained(f"{listed}[project.scripts]") == ['"b>=2",', 'extra = ["c"]']


def test_compromised_lightning_releases_are_excluded() -> None:
    (lightning,) = (r for r in requirements() if re.match(r"lightning\b", r))
    assert {"!=2.6.2", "!=2.6.3"} <= set(re.findall(r"!=[\d.]+", lightning))


def test_albumentations_is_the_last_free_release() -> None:
    assert [r for r in requirements() if re.match(r"albu", r)] == ["albumentations==2.0.8"]


def refused_names(text: str) -> list[str]:
    return REFUSED.findall(text)


def test_no_agpl_package_is_named_outside_prose() -> None:
    files = (REPO / path for path in tracked_files() if path.suffix != ".md")
    searched = [path for path in files if path.is_file()]
    found = {str(p.relative_to(REPO)): refused_names(p.read_text(encoding="utf-8", errors="ignore")) for p in searched}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(("name", "ending"), [("albumentations", "X"), ("albumentations", "-x"), ("lightly", "_train")])
def test_the_search_finds_an_agpl_package(name: str, ending: str) -> None:
    assert refused_names(f"import {name}{ending}")
    assert not refused_names("import albumentations, lightly")


def test_no_direct_dependency_declares_agpl() -> None:
    for name in {re.split(r"[\[<>=!~ ]", requirement)[0] for requirement in requirements()}:
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        declared = [metadata.get("License-Expression") or "", *metadata.get_all("Classifier", [])]
        assert not [line for line in declared if re.search("AGPL|Affero", line)], name
