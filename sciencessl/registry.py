"""Names -> domains, methods and the preparer: with the command line the only engine module that knows domains by name.

Listing imports one plug-in after the other and keeps going when one is broken: its error becomes a row.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sciencessl.errors import RegistryError, did_you_mean, unknown_name
from sciencessl.spec import API, DomainSpec

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from sciencessl.methods.base import Method

PREPARER = "sciencessl.data_prep.engine:prepare"
STREAM_OPENER = "sciencessl.data_prep.stream:open_stream"
PREPARE_SETTINGS = "sciencessl.data_prep.settings:PrepareSettings"
LABEL_READER = "sciencessl.data_prep.label_table:read_label_table"
SKY_LABEL_READER = "sciencessl.data_prep.label_table:read_sky_table"
EXPORT_READER = "sciencessl.data_prep.zooniverse:read_vote_table"
ANNOTATION_READER = "sciencessl.data_prep.slide_labels:read_slide_labels"
MASK_READER = "sciencessl.data_prep.mask_labels:read_mask_labels"
BUILTIN_DOMAINS = "sciencessl.domains:BUILTIN"
BUILTIN_METHODS = "sciencessl.methods:BUILTIN"
DEMO_DOMAIN = "galaxy"
"""What `demo` shows when nothing else is asked for."""


@dataclass(frozen=True)
class Entry:
    """One registered name: where it comes from, and one line on it or the error that importing it gave."""

    name: str
    target: str
    origin: str
    title: str = ""
    error: str = ""


@dataclass(frozen=True)
class MethodEntry(Entry):
    """A registered method, and what its class says of it; see `sciencessl.methods.base.Method`."""

    paper: str = ""
    status: str = ""
    cost: float = 0.0
    n_views: int = 0
    multi_crop: bool = False


E = TypeVar("E", bound=Entry)


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


def _targets(builtin: str, group: str) -> dict[str, list[tuple[str, str]]]:
    """Name -> (target, origin) of everyone who registered it."""
    found = {name: [(target, "built in")] for name, target in dict(resolve(builtin)).items()}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append((point.value, _distribution(point)))
    return found


def _target(what: str, name: str, targets: Mapping[str, list[tuple[str, str]]]) -> str:
    """The one target of a name; two are an error that names both, and only for this name."""
    if name not in targets:
        raise RegistryError(unknown_name(what, name, targets))
    if len(targets[name]) > 1:
        both = " and ".join(f"{origin} ({target})" for target, origin in targets[name])
        raise RegistryError(f"{what} {name!r} is registered twice: {both}. Uninstall one of them.")
    return targets[name][0][0]


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _domain_targets() -> dict[str, list[tuple[str, str]]]:
    return _targets(BUILTIN_DOMAINS, "sciencessl.domains")


def _method_targets() -> dict[str, list[tuple[str, str]]]:
    return _targets(BUILTIN_METHODS, "sciencessl.methods")


def domain_module(name: str) -> str:
    """Module of a domain.

    Raises:
        RegistryError: When there is no domain of that name.
    """
    return _target("domain", name, _domain_targets()).partition(":")[0]


def domain_preset(name: str) -> Traversable | None:
    """Where a domain keeps its `preset.yaml`, which need not be there; None for a domain without a folder of its own.

    Raises:
        RegistryError: When there is no domain of that name.
    """
    try:
        return files(domain_module(name)) / "preset.yaml"
    except TypeError:
        return None  # a domain in a single module


def load_domain(name: str) -> DomainSpec:
    """The domain of that name.

    Raises:
        RegistryError: When there is none, or it speaks another version of the contract.
    """
    target = _target("domain", name, _domain_targets())
    spec = resolve(target)
    if not isinstance(spec, DomainSpec):
        raise RegistryError(f"domain {name!r}: {target} is a {type(spec).__name__}, expected a DomainSpec.")
    if spec.api != API:
        raise RegistryError(f"domain {name!r} speaks contract version {spec.api}; this sciencessl speaks {API}.")
    return spec


def load_method(name: str) -> type[Method]:
    """The method of that name, or of `FILE.py:NAME`.

    Raises:
        RegistryError: When there is none, or it is no `Method`.
    """
    if ".py:" in name:
        return _checked_method(name, local_attribute(name, "--method"))
    targets = _method_targets()
    if name not in targets:
        raise RegistryError(unknown_name("method", name, targets) + " A file of your own: --method FILE.py:NAME.")
    return _checked_method(name, resolve(_target("method", name, targets)))


def _checked_method(name: str, found: Any) -> type[Method]:
    # Here, because naming a domain must not load torch.
    from sciencessl.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise RegistryError(f"method {name!r} is {found!r}, expected a class made from sciencessl.methods.base.Method.")
    return found


def local_attribute(name: str, flag: str) -> Any:
    """What a Python file of the user's defines.

    Args:
        name: `FILE.py:NAME`.
        flag: What named it, for errors.

    Raises:
        RegistryError: When there is no such file or name, or the file cannot be imported.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise RegistryError(f"{flag} {name}: there is no file {path}.")
    module = _local_module(name, path, flag)
    if not hasattr(module, attribute):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise RegistryError(f"{flag} {name}: {path} defines no {attribute!r}.{did_you_mean(attribute, public)}")
    return getattr(module, attribute)


def _local_module(name: str, path: Path, flag: str) -> ModuleType:
    """The file as a module, imported once for each content: dataclasses look their own module up by its name."""
    title = f"sciencessl_local_{path.stem}_{method_source_digest(name)[:8]}"
    if title in sys.modules:
        return sys.modules[title]
    spec = importlib.util.spec_from_file_location(title, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a file of the user's may raise anything
        del sys.modules[title]
        raise RegistryError(f"{flag} {name}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def method_source_digest(name: str) -> str:
    """Digest of the file of a local method or hook; empty for a registered one."""
    if ".py:" not in name:
        return ""
    return blake2b(Path(name.rpartition(":")[0]).read_bytes(), digest_size=16).hexdigest()


def preparer() -> Callable[..., Any]:
    """The function that turns files into a store."""
    function: Callable[..., Any] = resolve(PREPARER)
    return function


def stream_opener() -> Callable[..., Any]:
    """The function that opens what would be prepared, to read it without a store."""
    function: Callable[..., Any] = resolve(STREAM_OPENER)
    return function


def label_reader() -> Callable[..., Any]:
    """The function that reads a table of labels for a store that is there already."""
    function: Callable[..., Any] = resolve(LABEL_READER)
    return function


def sky_label_reader() -> Callable[..., Any]:
    """The same for a table that is matched by positions on the sky."""
    function: Callable[..., Any] = resolve(SKY_LABEL_READER)
    return function


def export_reader() -> Callable[..., Any]:
    """The function that reads votes from an export of a volunteers' project."""
    function: Callable[..., Any] = resolve(EXPORT_READER)
    return function


def annotation_reader() -> Callable[..., Any]:
    """The function that reads what was drawn on slides as labels of their tiles."""
    function: Callable[..., Any] = resolve(ANNOTATION_READER)
    return function


def mask_reader() -> Callable[..., Any]:
    """The function that reads label images as labels of tiles."""
    function: Callable[..., Any] = resolve(MASK_READER)
    return function


def prepare_settings() -> type:
    """The dataclass of the preparer's settings."""
    settings: type = resolve(PREPARE_SETTINGS)
    return settings


def domains() -> list[Entry]:
    """Every registered domain, broken ones with their error."""
    return _listing(_domain_targets(), Entry, lambda name: {"title": str(load_domain(name).title)})


def methods() -> list[MethodEntry]:
    """Every registered method, broken ones with their error."""
    return _listing(_method_targets(), MethodEntry, _method_facts)


def method_entry(name: str) -> MethodEntry:
    """One method, registered or `FILE.py:NAME`.

    Raises:
        RegistryError: As `load_method`.
    """
    facts = _method_facts(name)
    target, origin = _method_targets().get(name, [(name, "a file")])[0]
    return MethodEntry(name, target, origin, **facts)


def _method_facts(name: str) -> dict[str, Any]:
    kind = load_method(name)
    return {"title": str(kind.title), "paper": str(kind.paper), "status": str(kind.status), "cost": float(kind.cost),
            "n_views": int(kind.n_views), "multi_crop": bool(kind.multi_crop)}  # fmt: skip


def _listing(
    targets: Mapping[str, list[tuple[str, str]]], kind: type[E], facts: Callable[[str], Mapping[str, Any]]
) -> list[E]:
    rows = []
    for name, registered in sorted(targets.items()):
        target, origin = (" and ".join(words) for words in zip(*registered, strict=True))
        try:
            rows.append(kind(name, target, origin, **facts(name)))
        except Exception as error:  # a plug-in may raise anything, and must not hide the others
            rows.append(kind(name, target, origin, error=f"{type(error).__name__}: {error}"))
    return rows
