"""What every verb shares: exit codes, and text or JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sciencessl.plain import plain

DONE, FAILED, USAGE, REFUSED, LEAK, REQUEUE = 0, 1, 2, 3, 4, 75


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print a result as one JSON value, or the text that says it."""
    print(json.dumps(plain(value), indent=1) if as_json else text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """The flag `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
