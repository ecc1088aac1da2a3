"""Stores in object stores: a URL becomes a path over fsspec with the interface of `pathlib`, so one code reads both.

Credentials, endpoint and region come from the environment of the provider's own client; nothing of ours keeps them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sciencessl.errors import ConfigError, MissingExtraError, OutOfReachError, SciencesslError, StoreError

if TYPE_CHECKING:
    from zarr.storage import StoreLike

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 16
"""Small reads of a remote store that are under way side by side: each waits for an answer, not for a disk. Zarr's own
setting, `async.concurrency`, changes nothing here: it asks for the chunks of one shard one after the other."""
S3 = ("s3", "s3a")
EXTRAS = dict.fromkeys(S3, "s3fs; pip install 's3fs' (or 'sciencessl[cluster]')")
"""What a scheme needs and how to get it; fsspec's own words say it for the others."""
NAMELESS = ("", "..")
"""How paths end that do not say what their folder is called, such as `.`."""
DECODERS = ("builtins", "zarr", "numcodecs", "numpy", "json", "google_crc32c")
"""Packages whose errors come from the bytes that were read. All others come from the client that should read them."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is the URL of an object store."""
    return "://" in str(path)


def store_path(path: str | Path) -> Path:
    """Where a store is: a `Path` for a local folder, a path of the same interface over fsspec for a URL.

    Nothing is asked of the network. A `UPath` keeps its options, such as `anon=True`.

    Args:
        path: A folder; or `s3://BUCKET/NAME.zarr`, `gs://...`, `abfs://...`, `memory://NAME.zarr`, `file:///...`.

    Raises:
        StoreError: When the URL has a scheme that cannot hold a store.
    """
    if not is_remote(path):
        # What lies beside a store is named for it, and the current folder has a name too.
        return Path(path).resolve() if Path(path).name in NAMELESS else Path(path)
    found = object_path(path)
    if not found.name:
        raise StoreError(f"{path} names a bucket and no store in it, expected {str(path).partition('://')[0]}"
                         "://BUCKET/NAME.zarr.")
    return found


def object_path(path: str | Path) -> Path:
    """A URL as a path over fsspec; `Path` where it means a local one. A whole bucket is one too.

    Raises:
        StoreError: When the URL has a scheme that lists no files.
    """
    from upath import UPath

    scheme, _, rest = str(path).partition("://")
    if scheme in ("file", "local"):
        return Path(UPath(str(path)).path)
    if scheme in ("http", "https"):
        raise StoreError(f"{path}: a web server does not list its folders, so tables would be lost. Give the bucket's "
                         "own address (s3://..., gs://...), or download the folder.")
    # fsspec would keep the first listing for good, and tables may be added while a store is open.
    options = {**getattr(path, "storage_options", {}), "use_listings_cache": False}
    if scheme in S3:
        options["max_concurrency"] = 1  # or s3fs asks for the size of each object before it asks for the object
    try:
        found = UPath(f"{scheme}://{rest.rstrip('/')}", **options)
    except ValueError as error:
        raise StoreError(f"{path}: {error}. Expected a folder, or a URL that fsspec knows, such as s3://... or "
                         "gs://...") from None
    return cast(Path, found)


def local_path(path: str | Path, what: str = "--out") -> Path:
    """A path that must be on this machine.

    Args:
        path: A path, or a URL by mistake.
        what: The argument that names it.

    Raises:
        ConfigError: When it is a URL.
    """
    if is_remote(path):
        raise ConfigError(f"{what} {path}: expected a folder or file of this machine; only sealed stores are read from "
                          "object stores. Copy with your provider's own tool, such as `aws s3 cp --recursive`.")
    return Path(path)


def beside(store: str | Path, ending: str) -> Path:
    """A local file or folder named for a store: beside a local one, in the current folder for one behind a URL."""
    path = store_path(store)
    return (Path() if is_remote(path) else path.parent) / f"{path.stem}{ending}"


def zarr_root(path: Path) -> StoreLike:
    """What zarr opens: the path itself, or its own store over fsspec.

    Raises:
        OutOfReachError, MissingExtraError: When there is no client for the URL.
    """
    if not is_remote(path):
        return path
    from zarr.storage import FsspecStore

    with reached(path):
        options = dict(cast(Any, path).storage_options)
        return FsspecStore.from_url(str(path), storage_options=options, read_only=True)


def client(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a remote path in this process, and the path as it is known there."""
    system = cast(Any, path).fs
    if getattr(system, "_pid", os.getpid()) != os.getpid():
        # A path keeps its client, whose threads and connections a fork does not take along.
        system = cast(Any, store_path(path)).fs
    return system, cast(Any, path).path


@contextmanager
def reached(path: Path) -> Iterator[None]:
    """Whatever a remote store's client raises inside becomes one sentence; that a file is not there passes.

    Raises:
        OutOfReachError: Without connection, credentials or permission.
        MissingExtraError: When the client is not installed.
    """
    try:
        yield
    except (FileNotFoundError, SciencesslError):
        raise
    except Exception as error:
        if is_remote(path):
            raise out_of_reach(path, error) from error
        raise


def unreadable(path: Path, error: Exception, sentence: str) -> SciencesslError:
    """A `StoreError` of that sentence; of a remote store whose client failed, that it is out of reach.

    Bytes that never came are not damaged ones.
    """
    if isinstance(error, SciencesslError):
        return error
    from_bytes = type(error).__module__.partition(".")[0] in DECODERS and not isinstance(error, OSError | ImportError)
    return StoreError(sentence) if from_bytes or not is_remote(path) else out_of_reach(path, error)


def out_of_reach(path: Path, error: Exception) -> SciencesslError:
    """What the client of a remote store raised, with what to do about it."""
    scheme, said = str(path).partition("://")[0], first_line(error).rstrip(".")
    if isinstance(error, ImportError):
        return MissingExtraError(f"{path}: reading it needs {EXTRAS[scheme]}." if scheme in EXTRAS else
                                 f"{path}: {said}.")
    name = type(error).__name__
    if "Credential" in name or "Profile" in name:
        fix = "give the provider's client credentials as it asks for them in its documentation"
        if scheme in S3:
            fix = ("set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a public bucket needs "
                   "FSSPEC_S3_ANON=true")
    elif isinstance(error, PermissionError):
        fix = "these credentials do not allow it, or there is nothing of that name"
    else:
        endpoint = " and AWS_ENDPOINT_URL, the address of a store that is not at AWS" if scheme in S3 else ""
        fix = f"check the network{endpoint}"
    return OutOfReachError(f"{path} is out of reach ({said}): {fix}.")


def first_line(error: Exception) -> str:
    """What an error of another library says in its first line, or its type where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def read_each(store: Path, read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`read(item)` of each item, in order: `AT_ONCE` at a time where the store is remote, one on a disk."""
    if not is_remote(store):
        yield from map(read, items)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked: deque[Future[Result]] = deque()
        for item in items:
            asked.append(pool.submit(read, item))
            if len(asked) == AT_ONCE:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
