"""From survey tiles, slides or an uncurated crawl to a self-supervised model, with honest few-label curves.

Every verb of the command line is a function of the same name here; importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "prepare": "sciencessl.preparation",
    "pretrain": "sciencessl.train.run",
    "embed": "sciencessl.evaluate.embed",
    "transfer": "sciencessl.evaluate.transfer",
    "report": "sciencessl.evaluate.report",
    "demo": "sciencessl.demonstration",
    "domains": "sciencessl.registry",
    "methods": "sciencessl.registry",
    "backbones": "sciencessl.backbones.timm_backbones",
    "Store": "sciencessl.store.reader",
    "DomainSpec": "sciencessl.spec",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sciencessl' has no attribute {name!r}; it has {', '.join(__all__)}")
    source = "list_backbones" if name == "backbones" else name
    return getattr(import_module(_PUBLIC[name]), source)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
