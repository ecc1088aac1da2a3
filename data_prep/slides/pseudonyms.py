"""Slides and patients under other names: a keyed hash of each, and a map that stays with the key."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from sciencessl.errors import ConfigError
from sciencessl.store.files import write_atomic

LEAST_KEY_BYTES = 16
SHORT_NAME = 3
HEX_DIGITS = 16
"""Of a pseudonym: 64 bits, so that ten million names clash with a probability below 3e-6."""


@dataclass
class Pseudonyms:
    """Names under one key; equal names have equal pseudonyms in every store made with that key.

    Attributes:
        key: The secret.
        path: File that the key is from; the map lies beside it.
        known: (kind, real name) -> pseudonym, of all names asked for.
    """

    key: bytes = field(repr=False)
    path: Path
    known: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)

    def name(self, kind: str, real: str) -> str:
        """The pseudonym of a `slide` or `patient`; the two kinds never agree, even where their names do."""
        told = self.known.get((kind, real))
        if told is None:
            # The key is hashed first: a key of any length serves.
            secret = blake2b(self.key, digest_size=32).digest()
            digits = blake2b(f"{kind}\0{real}".encode(), key=secret, digest_size=HEX_DIGITS // 2).hexdigest()
            told = self.known[kind, real] = f"{kind[0].upper()}{digits}"
        return told

    def write_map(self) -> Path:
        """Add all names asked for to the map, `KEY.map.csv`, which only its owner may read.

        Raises:
            OSError: As the file system says.
            ConfigError: When there is a file of that name which is no such map.
        """
        path = self.path.with_name(f"{self.path.name}.map.csv")
        rows = {**_read_map(path), **self.known}
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow(["kind", "name", "pseudonym"])
        out.writerows([*pair, told] for pair, told in sorted(rows.items()))
        raw = text.getvalue().encode()
        if not path.is_file() or path.read_bytes() != raw:
            write_atomic(path, raw, 0o600)
        os.chmod(path, 0o600)
        return path


def _read_map(path: Path) -> dict[tuple[str, str], str]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return {(row["kind"], row["name"]): row["pseudonym"] for row in csv.DictReader(stream, strict=True)}
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no map of pseudonyms, a CSV of kind, name, pseudonym; move it away, "
                          "and it is made anew.") from error


def read_key(path: str | Path) -> Pseudonyms:
    """Pseudonyms under the key in a file.

    Raises:
        ConfigError: When there is no such file, or it is too short to be a secret.
    """
    hint = "Make one with `openssl rand -hex 32 > KEY`, and keep it where the store is not."
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"--pseudonymise {path}: the key cannot be read ({error.strerror}). {hint}") from error
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(f"--pseudonymise {path}: the key has {len(key)} bytes, at least {LEAST_KEY_BYTES} make a "
                          f"secret. {hint}")
    return Pseudonyms(key, Path(path))


def scrub(text: str, secrets: Iterable[str], instead: str) -> str:
    """A text without paths and real names, longest first, so that no part of one stays.

    Names of up to `SHORT_NAME` letters stay: slides called `2` or `A` would take figures and words apart, and what is
    said of slides names no file anyway.
    """
    for secret in sorted({word for word in secrets if len(word) > SHORT_NAME}, key=len, reverse=True):
        text = text.replace(secret, instead)
    return text
