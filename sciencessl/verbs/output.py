"""What every verb shares: exit codes, and text or JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from sciencessl.plain import plain

DONE, FAILED, USAGE, REFUSED, LEAK, REQUEUE = 0, 1, 2, 3, 4, 75


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print a result as one JSON value, or the text that says it."""
    print(json.dumps(plain(value), indent=1) if as_json else text)


def teller(args: argparse.Namespace) -> Callable[[str], None]:
    """Where lines for people go while a verb works: beside its one JSON object, or with its text."""
    return (lambda line: print(line, file=sys.stderr)) if args.json else print


def add_accept_leak(parser: argparse.ArgumentParser) -> None:
    """The flag `--accept-leak`."""
    parser.add_argument("--accept-leak", action="store_true",
                        help="go on where the test shares samples with what is learned from, and say so in all results")


def add_json(parser: argparse.ArgumentParser) -> None:
    """The flag `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
