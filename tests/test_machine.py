"""Facts about the machine: read from files of known content, and plausible on this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sciencessl import machine

INTEL = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) 8488C\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n"
OLD = "model name\t: Intel(R) Core(TM) i5\nflags\t\t: fpu sse avx2\n"
MEMORY = "MemTotal:       16777216 kB\nMemFree:         1 kB\nMemAvailable:    8388608 kB\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write files of a /proc and look there; `system` is what the operating system calls itself."""

    def write(system: str = "Linux", **files: str) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, "Path", lambda path: tmp_path if path == "/proc" else Path(path))
        monkeypatch.setattr(machine.platform, "system", lambda: system)
        monkeypatch.setattr(machine.platform, "processor", lambda: "")

    return write


@pytest.mark.parametrize(
    ("cpuinfo", "model", "instructions"),
    [(INTEL, "Intel(R) Xeon(R) 8488C", ["amx_bf16", "avx512_bf16"]), (ARM, "unknown", ["bf16"]),
     (OLD, "Intel(R) Core(TM) i5", []), ("", "unknown", None)],
)  # fmt: skip
def test_cpu(proc: Any, cpuinfo: str, model: str, instructions: list[str] | None) -> None:
    proc(cpuinfo=cpuinfo)
    assert machine.cpu_model() == model
    assert machine.bfloat16_instructions() == instructions


def test_memory(proc: Any) -> None:
    proc(meminfo=MEMORY)
    assert machine.memory_gib() == (16.0, 8.0)


def test_a_system_without_these_files_is_unknown(proc: Any) -> None:
    proc(system="Windows")
    assert machine.memory_gib() is None
    assert machine.bfloat16_instructions() is None
    assert machine.cpu_model() == "unknown"


def test_macos_is_asked_with_sysctl(proc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"machdep.cpu.brand_string": "Apple M2\n", "hw.optional.arm.FEAT_BF16": "1\n"}

    def sysctl(command: list[str], **_: Any) -> Any:
        assert command[:2] == ["sysctl", "-n"]
        return type("Done", (), {"stdout": told[command[2]]})

    proc(system="Darwin")
    monkeypatch.setattr(machine.subprocess, "run", sysctl)
    assert (machine.cpu_model(), machine.bfloat16_instructions()) == ("Apple M2", ["FEAT_BF16"])
    told["hw.optional.arm.FEAT_BF16"] = "0\n"
    assert machine.bfloat16_instructions() == []


def test_this_machine_has_cores() -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)


FAULTS = """
import resource
import torch
from sciencessl.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        kept = [torch.ones(2**22) for _ in range(16)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(machine.platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_not_asked_for_again() -> None:
    """Without, it is by luck not asked for: a small block at the top of the heap keeps what is below it."""
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 8 * 16 * 2**24 // 2**21 // 10  # a tenth of the pages, were they as large as can be


def test_elsewhere_memory_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("", ""))
    assert not machine.keep_freed_memory()
