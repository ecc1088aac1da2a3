"""`doctor`: healthy here, each kind of trouble is found with what to do, and nothing broken stops the rest."""

from __future__ import annotations

import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from sciencessl import diagnosis
from sciencessl.diagnosis import Finding, doctor, doctor_text, extra_libraries, unmet_requirements
from sciencessl.registry import Entry
from sciencessl.train.folder import LIBRARIES

Usage = namedtuple("Usage", "total used free")
ABOUT = {"sciencessl", "links", "Python", "system", "CPU", "memory", "disk", "torch", "GPU", "bfloat16", "libraries",
         "requirements", "domains", "methods"}  # fmt: skip


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_environment_is_sound_and_told_in_full(tmp_path: Path) -> None:
    found = named(doctor(tmp_path))
    assert set(found) >= ABOUT
    assert [finding for finding in found.values() if finding.state == "broken"] == []
    assert str(tmp_path) in found["disk"].value
    for name in LIBRARIES:
        assert version(name) in " ".join(finding.value for finding in found.values())
    assert found["domains"].value == "galaxy, pathology, web"


def test_the_folder_may_be_made_later(tmp_path: Path) -> None:
    found = named(doctor(tmp_path / "not" / "yet"))["disk"]
    assert found.value.endswith(f"free in {tmp_path / 'not' / 'yet'}")
    assert found.state != "broken"


def test_a_library_that_cannot_be_imported_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = named(doctor())
    assert found["torch"].state == found["GPU"].state == "broken"
    assert "import of torch halted" in found["torch"].value
    assert "fresh environment" in found["torch"].advice
    assert found["CPU"].state == "ok"


def test_text_files_in_the_place_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("data_prep", "domains"):
        (tmp_path / name).write_text(f"../{name}")
    monkeypatch.setattr(diagnosis, "_package", lambda: tmp_path)
    found = named(doctor())["links"]
    assert found.state == "broken"
    assert found.value.startswith("data_prep, domains in ")
    assert "core.symlinks true" in found.advice


@pytest.mark.parametrize("linked", [True, False])
def test_links_and_folders_are_both_right(linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in diagnosis.LINKS:
        (tmp_path / "real" / name).mkdir(parents=True)
        (tmp_path / name).symlink_to(Path("real") / name)
    monkeypatch.setattr(diagnosis, "_package", lambda: tmp_path if linked else tmp_path / "real")
    found = named(doctor())["links"]
    assert (found.state, "real links" in found.value) == ("ok", linked)


def test_little_memory_disk_or_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Usage(64 * 2**20, 0, 64 * 2**20)
    monkeypatch.setattr(diagnosis, "memory_gib", lambda: (8.0, 1.0))
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda path: small)
    found = named(doctor())
    assert (found["memory"].state, found["memory"].value) == ("warning", "1.0 GiB free of 8.0 GiB")
    assert found["disk"].state == "warning"
    if Path("/dev/shm").is_dir():
        assert found["shared memory"].value == "0.06 GiB in /dev/shm"
        assert "--shm-size" in found["shared memory"].advice
    monkeypatch.setattr(diagnosis, "memory_gib", lambda: (8.0, 4.0))
    assert named(doctor())["memory"] == Finding("memory", "4.0 GiB free of 8.0 GiB")


@pytest.mark.parametrize(
    ("told", "words"),
    [(None, "unknown on this system"), ([], "emulated"), (["amx_bf16"], "native on the CPU (amx_bf16)")],
)
def test_bfloat16(told: list[str] | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "bfloat16_instructions", lambda: told)
    found = named(doctor())["bfloat16"]
    assert words in found.value
    assert found.state == "ok"


def test_a_broken_plug_in_is_named_with_whom_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    radio = Entry("radio", "r:SPEC", "sciencessl-radio", error="KeyError: 'x'")
    rows = [Entry("web", "a:B", "built in", "photos"), radio]
    monkeypatch.setattr("sciencessl.registry.domains", lambda: rows)
    found = named(doctor())
    assert found["domains"] == Finding("domains", "web")
    broken = found["domain radio"]
    assert (broken.value, broken.state) == ("KeyError: 'x'", "broken")
    assert "uninstall sciencessl-radio" in broken.advice


def test_requirements_that_are_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"lightning": "2.6.2", "albumentations": "2.0.9", "numpy": "2.1.0", "zarr": "3.1.6"}

    def find(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(diagnosis, "version", find)
    listed = ["lightning!=2.6.2,!=2.6.3,<3,>=2.5", "albumentations==2.0.8", "numpy>=2.0", "zarr<4,>=3.1.6", "timm>=1",
              'astropy>=6.1; extra == "galaxy"', 'tomli; python_version < "3"']  # fmt: skip
    found = named(list(unmet_requirements(listed)))
    assert set(found) == {"lightning", "albumentations", "timm"}
    assert {finding.state for finding in found.values()} == {"broken"}
    assert found["lightning"].value.startswith("2.6.2, expected ")
    assert "compromised account" in found["lightning"].advice
    assert "last release under MIT" in found["albumentations"].advice
    assert (found["timm"].value, found["timm"].advice) == ("absent", "pip install 'timm>=1'.")
    installed["lightning"] = "2.6.1"
    assert "lightning" not in named(list(unmet_requirements(listed)))


def test_libraries_of_extras_are_told_and_absent_ones_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openslide-python": "1.4.7", "tifffile": "2020.1"}

    def find(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(diagnosis, "version", find)
    of_slides = ("openslide-python>=1.4", "tifffile>=2025.1", "h5py")
    listed = ["numpy>=2", *(f'{one}; extra == "pathology"' for one in of_slides)]
    found = named(list(extra_libraries(listed, "pathology")))
    assert found["[pathology]"] == Finding(
        "[pathology]", "openslide-python 1.4.7, tifffile 2020.1; without h5py: pip install 'sciencessl[pathology]'"
    )
    assert (found["tifffile"].value, found["tifffile"].state) == ("2020.1, expected >=2025.1", "broken")
    assert len(found) == 2
    assert not list(extra_libraries(listed, "web"))


def test_a_checkout_that_was_never_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis, "requires", none)
    found = named(doctor())["requirements"]
    assert (found.state, "make install" in found.advice) == ("warning", True)


@pytest.mark.parametrize(("cuda", "words"), [(None, "built without CUDA"), ("13.0", "built for CUDA 13.0")])
def test_a_driver_that_torch_cannot_use(cuda: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(diagnosis, "DRIVER", Path(__file__))
    found = named(doctor())["GPU"]
    assert found.state == "warning"
    assert words in found.value
    monkeypatch.setattr(diagnosis, "DRIVER", Path("/no/driver"))
    assert named(doctor())["GPU"] == Finding("GPU", "none: training runs on the CPU")


def test_the_text_has_one_line_a_fact_and_a_verdict() -> None:
    fine = doctor_text([Finding("a", "1"), Finding("longer", "2")])
    assert fine.splitlines() == ["ok       a       1", "ok       longer  2", "", "nothing is wrong"]
    bad = doctor_text([Finding("a", "1", "broken", "Do it."), Finding("b", "2", "warning", "Or not.")])
    assert bad.splitlines() == [
        "broken   a  1", "            -> Do it.", "warning  b  2", "            -> Or not.", "",
        "1 broken, 1 warning: see -> above",
    ]  # fmt: skip
