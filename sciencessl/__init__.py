"""From survey tiles, slides or an uncurated crawl to a self-supervised model, with honest few-label curves.

Every verb of the command line is a function of the same name here: `prepare`, `pretrain`, `embed`, `transfer`,
`predict`, `rank`, `select`, `compare`, `report`, `average`, `export`, `doctor` and `demo`. What lists, explains or
looks into a store has a longer name, since `domains`, `methods`, `presets`, `backbones`, `config` and `store` are
modules: `list_domains`, `list_methods`, `list_presets`, `list_backbones`, `config_explain`, `store_info`,
`store_verify`, `store_show`, `store_audit`, `store_curate`, `store_label`, `store_label_votes`, `store_remove`,
`store_compact`, `store_shuffle`. What `predict` says of runs that learned from votes is `predict_votes`.
Importing this package imports nothing heavy.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Read by OpenMP when torch loads. By default its threads spin for long while they wait, which takes the cores from
# loader workers: beside another busy process on two cores a step was forty times slower. Never spinning costs 40 % on
# idle cores; this count costs nothing there. A value of the user's own is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

__version__ = "0.1.0"

_PUBLIC = {
    "prepare": "sciencessl.preparation:prepare",
    "pretrain": "sciencessl.train.run:pretrain",
    "embed": "sciencessl.evaluate.embed:embed",
    "transfer": "sciencessl.evaluate.transfer:transfer",
    "predict": "sciencessl.evaluate.predict:predict",
    "rank": "sciencessl.evaluate.rank:rank",
    "select": "sciencessl.evaluate.selection:select",
    "predict_votes": "sciencessl.evaluate.predict_votes:predict_votes",
    "compare": "sciencessl.evaluate.compare:compare",
    "report": "sciencessl.evaluate.report:report",
    "average": "sciencessl.evaluate.average:average",
    "export": "sciencessl.evaluate.export:export",
    "doctor": "sciencessl.diagnosis:doctor",
    "demo": "sciencessl.demonstration:demo",
    "list_domains": "sciencessl.registry:domains",
    "list_methods": "sciencessl.registry:methods",
    "list_presets": "sciencessl.presets:presets",
    "list_backbones": "sciencessl.backbones.timm_backbones:list_backbones",
    "config_explain": "sciencessl.explanation:explain",
    "store_audit": "sciencessl.store.audit:audit",
    "store_curate": "sciencessl.curate.curation:curate",
    "store_info": "sciencessl.store.info:info",
    "store_label": "sciencessl.store.label:label",
    "store_label_votes": "sciencessl.store.volunteers:label_votes",
    "store_remove": "sciencessl.store.removals:remove",
    "store_compact": "sciencessl.store.compact:compact",
    "store_shuffle": "sciencessl.store.shuffle:shuffle",
    "store_verify": "sciencessl.store.verify:verify",
    "store_show": "sciencessl.store.show:show",
    "Store": "sciencessl.store.reader:Store",
    "DomainSpec": "sciencessl.spec:DomainSpec",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sciencessl' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
