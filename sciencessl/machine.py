"""What the machine is made of, read without loading anything heavy, and how this process lives on it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import subprocess
import threading
from pathlib import Path

GIB = 2**30

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls instructions that multiply bfloat16 numbers; the last one is that of ARM."""


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Numbers of `mallopt`'s settings (malloc.h of glibc)."""


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for the next time it asks; whether that could be arranged.

    A training step on the CPU allocates and frees the same few gigabytes each time. Left alone, glibc returns most of
    them to the system, which then clears every page again: 10 to 20 % of a step at 224 px, measured. From here on it
    returns only blocks above 32 MiB (its limit). Nothing computed changes. Elsewhere than on glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**26), (MMAP_THRESHOLD, 2**25))
    return all(mallopt(name, value) == 1 for name, value in settings)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended; returns at once.

    For processes of `multiprocessing`: a worker and its fork server would keep each other alive for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """Name of the CPU as its maker gives it, or `unknown`."""
    return _proc("cpuinfo", "model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"


def memory_gib() -> tuple[float, float] | None:
    """(total, free for programs) memory in GiB, on Linux; None where it isn't told."""
    told = [_proc("meminfo", key).partition(" ")[0] for key in ("MemTotal", "MemAvailable")]
    return (int(told[0]) * 1024 / GIB, int(told[1]) * 1024 / GIB) if all(told) else None


def bfloat16_instructions() -> list[str] | None:
    """Instructions of the CPU for bfloat16, none where it emulates them; None where it isn't told."""
    if platform.system() == "Darwin":
        return ["FEAT_BF16"] if _sysctl("hw.optional.arm.FEAT_BF16") == "1" else []
    flags = {*_proc("cpuinfo", "flags").split(), *_proc("cpuinfo", "Features").split()}
    return sorted(flags & BFLOAT16_FLAGS) if flags else None


def _proc(file: str, key: str) -> str:
    """Value of a key in a file of /proc; empty where there is no such file or key."""
    path = Path("/proc") / file
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _sysctl(name: str) -> str:
    """Value of a kernel setting of macOS; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
