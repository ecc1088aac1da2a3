"""Colour profiles made by hand."""

from __future__ import annotations

import struct


def swapped_profile(gamma: float = 1.0) -> bytes:
    """A matrix profile whose red primary is sRGB's green and the other way round, with a power law."""
    primaries = {b"rXYZ": (0.3851, 0.7169, 0.0971), b"gXYZ": (0.4361, 0.2225, 0.0139),
                 b"bXYZ": (0.1431, 0.0606, 0.7141)}
    xyz = {name: b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in value)
           for name, value in {**primaries, b"wtpt": (0.9642, 1.0, 0.8249)}.items()}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    named = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"swapped\0" + bytes(78 + 1)
    tags = {**xyz, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"desc": named + bytes(-len(named) % 4)}
    return icc(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    named = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78 + 1)
    return icc(b"GRAY", {b"wtpt": white, b"kTRC": curve, b"desc": named + bytes(-len(named) % 4)})


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    header += bytes(28) + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
