"""Names, plug-ins that are broken or clash, and methods from a file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sciencessl import registry
from sciencessl.errors import RegistryError
from sciencessl.methods.byol import Byol

Point = tuple[str, str]


class Named(EntryPoint):
    """An entry point of a distribution called `dist-NAME`."""

    @property
    def dist(self) -> Any:  # type: ignore[override]
        return type("Dist", (), {"name": f"dist-{self.name}"})


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install entry points into one group, with a module `plugin_module` to point at."""

    def install(group: str, points: list[Point], **attributes: Any) -> None:
        module = ModuleType("plugin_module")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, "plugin_module", module)
        found = [Named(name, target, group) for name, target in points]
        monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in found if p.group == group])

    return install


def rows(entries: list[registry.Entry]) -> dict[str, registry.Entry]:
    return {entry.name: entry for entry in entries}


def test_what_is_built_in_is_listed_without_errors() -> None:
    assert set(rows(registry.domains())) >= {"galaxy", "pathology", "web"}
    assert set(rows(registry.methods())) >= {"byol", "labels_only"}
    for entry in (*registry.domains(), *registry.methods()):
        assert entry.error == ""
        assert entry.title
        assert entry.origin == "built in"


def test_a_broken_plug_in_is_a_row_and_stops_nobody(plug_in: Any) -> None:
    old = dataclasses.replace(registry.load_domain("web"), name="old", api=0)
    plug_in(
        "sciencessl.domains",
        [("gone", "no_such_module:SPEC"), ("empty", "plugin_module:SPEC"), ("odd", "plugin_module:ODD"),
         ("old", "plugin_module:OLD")],
        ODD=3, OLD=old,
    )
    found = rows(registry.domains())
    assert "No module named 'no_such_module'" in found["gone"].error
    assert found["gone"].origin == "dist-gone"
    assert "has no attribute 'SPEC'" in found["empty"].error
    assert "is a int, expected a DomainSpec" in found["odd"].error
    assert "speaks contract version 0; this sciencessl speaks 1" in found["old"].error
    assert found["galaxy"].error == ""
    assert registry.load_domain("galaxy").name == "galaxy"
    with pytest.raises(RegistryError, match="no_such_module"):
        registry.load_domain("gone")


def test_a_plug_in_that_raises_at_import_is_a_row(
    plug_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exploding_plugin.py").write_text("raise ZeroDivisionError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    plug_in("sciencessl.methods", [("bang", "exploding_plugin:X")])
    found = rows(registry.methods())
    assert found["bang"].error == "ZeroDivisionError: at import"
    assert found["byol"].error == ""


def test_a_clash_names_both_and_stops_only_its_own_name(plug_in: Any) -> None:
    plug_in("sciencessl.domains", [("galaxy", "plugin_module:SPEC")], SPEC=registry.load_domain("web"))
    with pytest.raises(RegistryError, match=r"'galaxy' is registered twice: built in .*dist-galaxy .*Uninstall"):
        registry.load_domain("galaxy")
    assert registry.load_domain("web").name == "web"
    found = rows(registry.domains())
    assert "registered twice" in found["galaxy"].error
    assert found["galaxy"].origin == "built in and dist-galaxy"
    assert found["web"].error == ""


def test_an_installed_domain_and_method_are_found(plug_in: Any) -> None:
    spec = dataclasses.replace(registry.load_domain("web"), name="soil", title="soil")
    plug_in("sciencessl.domains", [("soil", "plugin_module:SPEC")], SPEC=spec)
    assert registry.load_domain("soil") is spec
    assert registry.domain_module("soil") == "plugin_module"
    plug_in("sciencessl.methods", [("mine", "plugin_module:Mine"), ("odd", "plugin_module:odd")], Mine=Byol, odd=len)
    assert registry.load_method("mine") is Byol
    with pytest.raises(RegistryError, match=r"method 'odd' is <built-in function len>, expected a class made from"):
        registry.load_method("odd")
    assert "expected a class" in rows(registry.methods())["odd"].error


def test_unknown_names_are_met_with_the_closest_and_all_known() -> None:
    with pytest.raises(RegistryError, match=r"no domain named 'galaxi'. Did you mean 'galaxy'\? Known: galaxy"):
        registry.load_domain("galaxi")
    with pytest.raises(RegistryError, match=r"no method named 'byo'. Did you mean 'byol'\?.*FILE.py:NAME"):
        registry.load_method("byo")
    with pytest.raises(RegistryError, match="no domain named 'x'"):
        registry.domain_module("x")


def test_what_cannot_be_resolved_says_why() -> None:
    assert registry.resolve("math:pi") > 3
    with pytest.raises(RegistryError, match=r"cannot load 'math:tau2': .*tau2"):
        registry.resolve("math:tau2")


LOCAL = """
from __future__ import annotations
from dataclasses import dataclass, field
from sciencessl.methods.byol import Byol

@dataclass(frozen=True)
class Options:
    hidden: int = 4
    names: list[str] = field(default_factory=list)

class Mine(Byol):
    title = "mine"
    Options = Options

def helper() -> None: ...
"""


def test_a_method_from_a_file_is_loaded_once_for_each_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(LOCAL)
    name = f"{file}:Mine"
    first = registry.load_method(name)
    assert issubclass(first, Byol)
    assert registry.load_method(name) is first
    assert first.Options().names == []
    digest = registry.method_source_digest(name)
    assert len(digest) == 32
    file.write_text(LOCAL.replace('"mine"', '"other"'))
    assert registry.load_method(name).title == "other"
    assert registry.method_source_digest(name) != digest
    assert registry.method_source_digest("byol") == ""


def test_a_file_that_is_no_method_says_why(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    with pytest.raises(RegistryError, match="there is no file"):
        registry.load_method(f"{file}:Mine")
    file.write_text(LOCAL)
    with pytest.raises(RegistryError, match=r"defines no 'Mime'. Did you mean 'Mine'\?"):
        registry.load_method(f"{file}:Mime")
    with pytest.raises(RegistryError, match="expected a class made from"):
        registry.load_method(f"{file}:helper")
    file.write_text("import no_such_library\n")
    with pytest.raises(RegistryError, match="cannot be imported: ModuleNotFoundError: No module named 'no_such_lib"):
        registry.load_method(f"{file}:Mine")
    file.write_text("def (:\n")
    with pytest.raises(RegistryError, match="cannot be imported: SyntaxError"):
        registry.load_method(f"{file}:Mine")


def test_naming_a_domain_loads_no_torch() -> None:


    code = "import sys; from sciencessl import registry as r; r.domain_module('web'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_preparer_is_found_by_its_name() -> None:
    assert callable(registry.preparer())
    assert dataclasses.is_dataclass(registry.prepare_settings())
