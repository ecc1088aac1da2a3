"""The one error family: each says what was given, what was expected, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SciencesslError(Exception):
    """Base of every error that sciencessl raises on purpose. The command line prints it without a traceback."""


class ConfigError(SciencesslError, ValueError):
    """A setting has a value that its rule does not allow, or a name that does not exist."""


class DataError(SciencesslError, ValueError):
    """Input data (files, a catalogue, labels) cannot be used as given."""


class LeakError(DataError):
    """What is tested on shares samples with what is learned from; the command line exits with a code of its own."""


class StoreError(SciencesslError, RuntimeError):
    """A store is missing, unsealed, of another format, or its bytes do not match its digests."""


class OutOfReachError(SciencesslError, RuntimeError):
    """A store behind a URL, or a hub of weights, did not answer: no connection, credentials or permission. It says
    nothing of its bytes."""


class RunError(SciencesslError, RuntimeError):
    """A run folder exists already, is incomplete, or holds a checkpoint of something else."""


class LostRankError(SciencesslError, RuntimeError):
    """Another process of a run has ended, or does not answer."""


class FirstRankError(SciencesslError, RuntimeError):
    """The first process of a run has failed, and said why: the others have nothing to add."""


class RegistryError(SciencesslError, LookupError):
    """No domain, method or backbone of that name."""


class MissingExtraError(SciencesslError, ImportError):
    """An optional library is needed for this; the message says which extra brings it."""


class SciencesslWarning(UserWarning):
    """Something a user should know that does not stop the work."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or an empty string when nothing is close.

    >>> did_you_mean("byoll", ["byol", "labels_only"])
    " Did you mean 'byol'?"
    >>> did_you_mean("xyz", ["byol"])
    ''
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, word: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not in a list: the closest one, then all of them."""
    names = sorted(known)
    listing = ", ".join(names) if names else "none"
    return f"no {what} named {word!r}.{did_you_mean(word, names)} Known: {listing}."
