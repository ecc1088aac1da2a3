"""`doctor`: the environment that a bug report needs, and what in it is known to cause trouble.

Nothing that may be broken is imported before its own check, and a check that fails is a finding, not a crash.
"""

from __future__ import annotations

import os
import platform
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

import sciencessl
from sciencessl.machine import GIB, bfloat16_instructions, cores, cpu_model, memory_gib

LEAST_MEMORY_GIB, LEAST_DISK_GIB, LEAST_SHARED_GIB = 2.0, 5.0, 0.25
"""Below these a warning: what a small run, a small store and the batches of a few loader processes take."""

DRIVER = Path("/proc/driver/nvidia/version")
"""There where the driver of an NVIDIA device is loaded."""

LINKS = ("configs", "data_prep", "domains")
OTHER_EXTRAS = {"all", "dev"}
"""Extras that are no field of their own."""
NOTES = {
    "lightning": "2.6.2 and 2.6.3 were published from a compromised account: remove them, and renew the passwords and "
    "keys that this machine holds.",
    "albumentations": "2.0.8 is the last release under MIT, and the one whose random state is tested here.",
}
"""Distribution -> why its requirement is as it is, where that is more than an age."""

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One fact about the environment.

    Attributes:
        name: What it is about.
        value: What was found, in words.
        state: `ok`; `warning` for what may hurt; `broken` for what cannot work.
        advice: What to do, where something is to be done.
    """

    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def doctor(folder: str | Path = ".") -> list[Finding]:
    """Look at everything that often explains a failure: versions, machine, memory, disk, plug-ins.

    Args:
        folder: Where stores and runs are to be written, now or later: its free space is looked at.
    """
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "sciencessl": _installation, "links": _links, "Python": _python, "CPU": _cpu, "memory": _memory,
        "shared memory": _shared_memory, "disk": lambda: _disk(Path(folder)), "torch": _torch, "GPU": _gpu,
        "bfloat16": _bfloat16, "libraries": _libraries, "domains": lambda: _plug_ins("domains"),
        "methods": lambda: _plug_ins("methods"),
    }  # fmt: skip
    return [finding for name, check in checks.items() for finding in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # whatever is wrong with it is what one wants to read here
        advice = "Read the error; where a library cannot be imported, install sciencessl again in a fresh environment."
        return [Finding(name, f"{type(error).__name__}: {error}", "broken", advice)]


def _installation() -> Iterator[Finding]:
    yield Finding("sciencessl", f"{sciencessl.__version__} in {_package()}")


def _package() -> Path:
    return Path(sciencessl.__file__).parent


def _links() -> Iterator[Finding]:
    """In a checkout three folders are links; without support for links git writes small text files instead."""
    entries = [_package() / name for name in LINKS]
    texts = [entry.name for entry in entries if not entry.is_dir()]
    if texts:
        advice = "On Windows switch developer mode on, then: git config core.symlinks true && git checkout -- ."
        yield Finding("links", f"{', '.join(texts)} in {_package()} lead nowhere", "broken", advice)
    else:
        linked = all(entry.is_symlink() for entry in entries)
        yield Finding("links", "a checkout, with real links" if linked else "not needed: installed from a wheel")


def _python() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("system", platform.platform())


def _cpu() -> Iterator[Finding]:
    usable, present = cores(), os.cpu_count() or 1
    number = f"{usable} of {present} cores may be used" if usable < present else f"{present} cores"
    yield Finding("CPU", f"{cpu_model()}, {number}")


def _memory() -> Iterator[Finding]:
    known = memory_gib()
    if known is None:
        yield Finding("memory", "unknown on this system")
        return
    total, free = known
    advice = "Close other programs, or use a smaller --batch and --compute.workers 0."
    finding = Finding("memory", f"{free:.1f} GiB free of {total:.1f} GiB", "warning", advice)
    yield _above(finding, free, LEAST_MEMORY_GIB)


def _shared_memory() -> Iterator[Finding]:
    path = Path("/dev/shm")
    if path.is_dir():
        total = shutil.disk_usage(path).total / GIB
        advice = "Loader processes hand batches over in it: start the container with --shm-size 1g, or use "
        yield _above(
            Finding("shared memory", f"{total:.2f} GiB in {path}", "warning", f"{advice}--compute.workers 0."),
            total, LEAST_SHARED_GIB,
        )


def _disk(folder: Path) -> Iterator[Finding]:
    place = folder.resolve()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    advice = "Free some, or write stores and runs elsewhere; `sciencessl prepare --dry-run` tells the size of a store."
    yield _above(Finding("disk", f"{free:.1f} GiB free in {place}", "warning", advice), free, LEAST_DISK_GIB)


def _above(finding: Finding, value: float, least: float) -> Finding:
    """The warning where the value is below the least that is needed; otherwise that all is well."""
    return finding if value < least else Finding(finding.name, finding.value)


def _torch() -> Iterator[Finding]:
    import torch

    asked = os.environ.get("OMP_NUM_THREADS")
    told = f" (OMP_NUM_THREADS={asked})" if asked else ""
    yield Finding("torch", f"{torch.__version__}, threads: {torch.get_num_threads()}{told}")


def _gpu() -> Iterator[Finding]:
    import torch

    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield Finding("GPU", f"{device.name}, {device.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}")
    if torch.cuda.device_count():
        return
    if DRIVER.is_file():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        advice = "Install the torch build that fits the driver (pytorch.org), or look at CUDA_VISIBLE_DEVICES."
        yield Finding("GPU", f"an NVIDIA driver is there, but no device can be used; {built}", "warning", advice)
    else:
        yield Finding("GPU", "none: training runs on the CPU")


def _bfloat16() -> Iterator[Finding]:
    native = bfloat16_instructions()
    if native is None:
        yield Finding("bfloat16", "unknown on this system; compute.precision auto measures it")
    elif native:
        yield Finding("bfloat16", f"native on the CPU ({', '.join(native)})")
    else:
        yield Finding("bfloat16", "emulated on the CPU, so slow there; compute.precision auto measures it")


def _libraries() -> Iterator[Finding]:
    from sciencessl.train.folder import LIBRARIES, library_version

    shown = [f"{name} {library_version(name)}" for name in LIBRARIES if name not in ("sciencessl", "torch")]
    yield Finding("libraries", ", ".join(shown))
    try:
        listed = requires("sciencessl") or []
    except PackageNotFoundError:
        advice = "In the checkout: make install, or pip install -e ."
        yield Finding("requirements", "unknown: sciencessl itself is not installed", "warning", advice)
        return
    unmet = list(unmet_requirements(listed))
    yield from unmet or [Finding("requirements", "all met")]
    for extra in sorted(set(metadata("sciencessl").get_all("Provides-Extra") or ()) - OTHER_EXTRAS):
        yield from extra_libraries(listed, extra)


def extra_libraries(listed: Sequence[str], extra: str) -> Iterator[Finding]:
    """A finding of which libraries of an extra are here, and a broken one for each of another version.

    Args:
        listed: As in `unmet_requirements`.
        extra: As in `pip install 'sciencessl[EXTRA]'`.
    """
    from packaging.requirements import Requirement

    wanted = [requirement for requirement in map(Requirement, listed) if _is_of(requirement, extra)]
    found = {requirement.name: _version(requirement.name) for requirement in wanted}
    here = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    absent = [name for name, number in found.items() if number is None]
    install = f"without {', '.join(absent)}: pip install 'sciencessl[{extra}]'" if absent else ""
    if wanted:
        yield Finding(f"[{extra}]", "; ".join(filter(None, (here, install))))
    yield from unmet_requirements([str(one).partition(";")[0] for one in wanted if found[one.name]])


def _is_of(requirement: Any, extra: str) -> bool:
    marker = requirement.marker
    return bool(marker and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra}))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def unmet_requirements(listed: Sequence[str]) -> Iterator[Finding]:
    """A broken finding for each requirement that is absent or of another version; those of extras are left out.

    Args:
        listed: Requirements as in the metadata of a distribution, such as `zarr<4,>=3.1.6`.
    """
    # Comes with lightning, matplotlib and pytest; pip carries the same.
    from packaging.requirements import Requirement

    for requirement in map(Requirement, listed):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
        found = _version(name)
        if found is None:
            yield Finding(name, "absent", "broken", f"pip install '{wanted}'.")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            advice = f"pip install '{wanted}'. {NOTES.get(name, '')}".strip()
            yield Finding(name, f"{found}, expected {requirement.specifier}", "broken", advice)


def _plug_ins(kind: Literal["domains", "methods"]) -> Iterator[Finding]:
    from sciencessl import registry

    entries = registry.domains() if kind == "domains" else registry.methods()
    yield Finding(kind, ", ".join(entry.name for entry in entries if not entry.error) or "none")
    for entry in entries:
        if entry.error:
            advice = f"Update or uninstall {entry.origin}; everything else works without it."
            yield Finding(f"{kind.removesuffix('s')} {entry.name}", entry.error, "broken", advice)


def doctor_text(findings: Sequence[Finding], width: int = 110) -> str:
    """One aligned line a fact, what to do below it, and a sentence at the end."""
    longest = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        start = f"{finding.state:<7}  {finding.name:<{longest}}  "
        gap = " " * len(start)
        lines.append(textwrap.fill(finding.value, width, initial_indent=start, subsequent_indent=gap))
        if finding.advice:
            lines.append(textwrap.fill(f"-> {finding.advice}", width, initial_indent=gap, subsequent_indent=gap))
    counts = {state: sum(finding.state == state for finding in findings) for state in ("broken", "warning")}
    wrong = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return "\n".join([*lines, "", f"{wrong}: see -> above" if wrong else "nothing is wrong"])
