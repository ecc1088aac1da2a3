"""What the licences of weights of others ask for. None of these weights is part of this project."""

from __future__ import annotations

FREE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "openrail")
"""Licences that forbid no use that a study would have to ask about."""

RESTRICTED = {
    "seer-license": "non-commercial research only, also for what is derived from them; the licence and its attribution "
    "go along with copies: https://github.com/facebookresearch/vissl/blob/main/projects/SEER/MODEL_LICENSE.md",
}
"""Licences that we have read -> what they ask for."""


def license_words(name: str) -> str:
    """What a licence asks of whoever uses the weights, or an encoder that started from them; empty for a free one.

    >>> license_words("mit")
    ''
    >>> license_words("cc-by-nc-4.0")
    "licence 'cc-by-nc-4.0': read its terms before you use or share what comes of these weights"
    """
    if not name or name in FREE:
        return ""
    read = "read its terms before you use or share what comes of these weights"
    return f"licence {name!r}: {RESTRICTED.get(name, read)}"
