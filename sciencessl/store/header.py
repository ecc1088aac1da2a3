"""The header of a store on disk, sealed or not."""

from __future__ import annotations

from pathlib import Path

import zarr

from sciencessl.errors import SciencesslError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import is_there, read_file
from sciencessl.store.remote import first_line, is_remote, unreadable, zarr_root


def read_header(path: Path) -> zpack.StoreHeader:
    """The header of a store, sealed or not.

    Raises:
        StoreError: When there is no store, or one of another format.
        OutOfReachError, MissingExtraError: When an object store does not answer, or its client is not installed.
    """
    try:
        if is_remote(path):
            # One request that decodes nothing: whatever it raises, zarr would tell less of it.
            read_file(path / "zarr.json")
        group = zarr.open_group(zarr_root(path), mode="r", zarr_format=3, use_consolidated=False)
        attributes = dict(group.attrs)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is no store: {_lack(path, error)}. Make one with `sciencessl prepare`.") from None
    except SciencesslError:
        raise
    except Exception as error:  # a damaged zarr.json can make its parser raise anything
        sentence = f"{path} is no store, or its zarr.json is damaged: {first_line(error)}."
        raise unreadable(path, error, sentence) from error
    return zpack.StoreHeader.from_attributes(attributes, path)


def _lack(path: Path, error: FileNotFoundError) -> str:
    said = first_line(error).rstrip(".")
    if is_remote(path) and "bucket" in said and "zarr.json" not in said:
        return said  # of a missing object, clients say its name, or "key"
    return "it has no zarr.json" if is_there(path) else "there is nothing of that name"
