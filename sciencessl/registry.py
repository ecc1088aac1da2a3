"""Names -> domains, methods and the preparer: with the command line the only engine module that knows domains by name.

Listing imports one plug-in after the other and keeps going when one is broken: its error becomes a row.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciencessl.errors import RegistryError, unknown_name
from sciencessl.spec import API, DomainSpec

if TYPE_CHECKING:
    from sciencessl.methods.base import Method

PREPARER = "sciencessl.data_prep.engine:prepare"
PREPARE_SETTINGS = "sciencessl.data_prep.settings:PrepareSettings"
BUILTIN_DOMAINS = "sciencessl.domains:BUILTIN"
BUILTIN_METHODS = "sciencessl.methods:BUILTIN"


@dataclass(frozen=True)
class Entry:
    """One registered name: where it comes from, and one line on it or the error that importing it gave."""

    name: str
    target: str
    origin: str
    title: str = ""
    error: str = ""


def resolve(target: str) -> Any:
    """Import `module:attribute`.

    Raises:
        RegistryError: When the module or the attribute is not there; carries the cause.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RegistryError(f"cannot load {target!r}: {error}") from error


def _targets(builtin: str, group: str) -> dict[str, tuple[str, str]]:
    """Name -> (target, origin). A clash of names is an error that names both."""
    found = {name: (target, "built in") for name, target in dict(resolve(builtin)).items()}
    for point in entry_points(group=group):
        origin = _distribution(point)
        if point.name in found:
            raise RegistryError(f"{point.name!r} is registered twice: {found[point.name][1]} and {origin}.")
        found[point.name] = (point.value, origin)
    return found


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _domain_targets() -> dict[str, tuple[str, str]]:
    return _targets(BUILTIN_DOMAINS, "sciencessl.domains")


def _method_targets() -> dict[str, tuple[str, str]]:
    return _targets(BUILTIN_METHODS, "sciencessl.methods")


def domain_module(name: str) -> str:
    """Module of a domain, beside which its `preset.yaml` lies; empty for an unknown one."""
    return _domain_targets().get(name, ("", ""))[0].partition(":")[0]


def load_domain(name: str) -> DomainSpec:
    """The domain of that name.

    Raises:
        RegistryError: When there is none, or it speaks another version of the contract.
    """
    targets = _domain_targets()
    if name not in targets:
        raise RegistryError(unknown_name("domain", name, targets))
    spec = resolve(targets[name][0])
    if not isinstance(spec, DomainSpec):
        raise RegistryError(f"domain {name!r}: {targets[name][0]} is a {type(spec).__name__}, expected a DomainSpec.")
    if spec.api != API:
        raise RegistryError(f"domain {name!r} speaks contract version {spec.api}; this sciencessl speaks {API}.")
    return spec


def load_method(name: str) -> type[Method]:
    """The method of that name, or of `FILE.py:NAME`.

    Raises:
        RegistryError: When there is none.
    """
    if ".py:" in name:
        return _local_method(name)
    targets = _method_targets()
    if name not in targets:
        raise RegistryError(unknown_name("method", name, targets) + " A file of your own: --method FILE.py:NAME.")
    method: type[Method] = resolve(targets[name][0])
    return method


def _local_method(name: str) -> type[Method]:
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise RegistryError(f"--method {name}: there is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"sciencessl_local_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        raise RegistryError(f"--method {name}: {path} defines no {attribute!r}.")
    method: type[Method] = getattr(module, attribute)
    return method


def method_source_digest(name: str) -> str:
    """Digest of a local method's source file; empty for a registered one."""
    if ".py:" not in name:
        return ""
    return blake2b(Path(name.rpartition(":")[0]).read_bytes(), digest_size=16).hexdigest()


def preparer() -> Callable[..., Any]:
    """The function that turns files into a store."""
    function: Callable[..., Any] = resolve(PREPARER)
    return function


def prepare_settings() -> type:
    """The dataclass of the preparer's settings."""
    settings: type = resolve(PREPARE_SETTINGS)
    return settings


def domains() -> list[Entry]:
    """Every registered domain, broken ones with their error."""
    return _listing(_domain_targets(), lambda spec: str(spec.title))


def methods() -> list[Entry]:
    """Every registered method, broken ones with their error."""
    return _listing(_method_targets(), lambda method: str(method.title))


def _listing(targets: Mapping[str, tuple[str, str]], title: Callable[[Any], str]) -> list[Entry]:
    rows = []
    for name, (target, origin) in sorted(targets.items()):
        try:
            rows.append(Entry(name, target, origin, title=title(resolve(target))))
        except Exception as error:  # a plug-in may raise anything, and must not hide the others
            rows.append(Entry(name, target, origin, error=f"{type(error).__name__}: {error}"))
    return rows
