"""The label head for votes of a finished run, exported beside its encoder: features -> Dirichlet concentrations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciencessl.errors import RunError, SciencesslError
from sciencessl.losses.dirichlet import DirichletHead
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.files import write_atomic
from sciencessl.train.folder import ModelCard, read_model

if TYPE_CHECKING:
    from sciencessl.train.labels import LabelSet
    from sciencessl.train.plan import Plan

VOTES = "exported/votes.json"
VOTES_WEIGHTS = "exported/votes.safetensors"


@dataclass(frozen=True)
class VoteHead:
    """What turns features into concentrations.

    Attributes:
        schema: Questions in the order of the rows of the weights.
        weight: (A, F) float32.
        bias: (A,) float32.
        dropout: (A,) probability that a feature was dropped in training, for each answer that of its head.
        left_out: Question -> answer columns that lead to it and that the run did not learn. How often it is asked is
            then known only among those who gave such an answer.
    """

    schema: LabelSchema
    weight: np.ndarray
    bias: np.ndarray
    dropout: np.ndarray
    left_out: Mapping[str, tuple[str, ...]]

    def concentrations(self, features: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        """(n, F) features -> (n, A) float64 concentrations in [1, 101].

        Args:
            features: Of the run's encoder, finite.
            kept: (A, F) whether each feature is kept for each answer, the rest scaled up as dropout does; None switches
                dropout off.

        Source: zoobot, `100 * sigmoid + 1`.
        """
        weight = self.weight.astype(np.float64)
        if kept is not None:
            weight = np.where(kept, weight / (1.0 - self.dropout[:, None]), 0.0)
        logits = features.astype(np.float64) @ weight.T + self.bias
        with np.errstate(over="ignore"):  # the exponential of a large logit is infinite, its inverse right
            alpha: np.ndarray = 100.0 / (1.0 + np.exp(-logits)) + 1.0
        return alpha


def joint_head(plan: Plan) -> VoteHead | None:
    """The heads of all vote terms of a plan as one, questions of one table after those of another; None without any.

    Every rank must call this.
    """
    # Here, because readers of a head need nothing of training.
    from sciencessl.train.parallel import full_state

    found = [(labels, term.head, full_state(term.head)) for labels, term in zip(plan.labels, plan.terms, strict=True)
             if labels.schema is not None and isinstance(term.head, DirichletHead)]
    if not found:
        return None
    asked = [question for labels, _, _ in found for question in _asked_after(plan, labels)]
    columns = {column for question in asked for column in question.columns}
    questions = tuple(Question(q.name, q.answers, tuple(c for c in q.after if c in columns)) for q in asked)
    schema = LabelSchema("+".join(dict.fromkeys(labels.schema.name for labels, _, _ in found if labels.schema)),
                         questions)
    arrays = [{name.removeprefix("linear."): tensor.detach().cpu().float().numpy() for name, tensor in state.items()}
              for _, _, state in found]
    dropout = [np.full(len(own["bias"]), head.dropout, np.float32)
               for own, (_, head, _) in zip(arrays, found, strict=True)]
    missing = {q.name: tuple(c for c in q.after if c not in columns) for q in asked}
    return VoteHead(schema, np.concatenate([own["weight"] for own in arrays]),
                    np.concatenate([own["bias"] for own in arrays]), np.concatenate(dropout),
                    {name: after for name, after in missing.items() if after})


def _asked_after(plan: Plan, labels: LabelSet) -> list[Question]:
    """The questions of a term with every parent that their tables know, also those that it did not learn."""
    tables = [part.table(name) for part, names in zip(plan.store.stores, labels.tables, strict=True) for name in names]
    known = {q.name: q for table in reversed(tables) if table.schema for q in table.schema.questions}
    assert labels.schema is not None
    return [known[question.name] for question in labels.schema.questions]


def write_vote_head(run: Path, head: VoteHead) -> None:
    """Write the weights as safetensors, then the description that makes them count."""
    from safetensors.numpy import save

    arrays = {"weight": head.weight, "bias": head.bias, "dropout": head.dropout}
    write_atomic(run / VOTES_WEIGHTS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    described = {"schema": head.schema.to_dict(), "left_out": {name: list(c) for name, c in head.left_out.items()}}
    write_atomic(run / VOTES, json.dumps(described, indent=1).encode())


def read_vote_head(run: Path) -> VoteHead:
    """The vote head of a finished run.

    Raises:
        RunError: When the folder holds no finished run, or one without such a head; when it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    card = read_model(run)
    if not (run / VOTES).is_file():
        raise RunError(f"{run} has no head for votes ({VOTES}). {_without(card)}")
    try:
        described: dict[str, Any] = json.loads((run / VOTES).read_text(encoding="utf-8"))
        stored = load_file(run / VOTES_WEIGHTS)
        head = VoteHead(LabelSchema.from_dict(described["schema"]), stored["weight"], stored["bias"],
                        stored["dropout"], {name: tuple(c) for name, c in described["left_out"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, SciencesslError) as error:
        raise RunError(f"{run / VOTES} is damaged ({type(error).__name__}: {error}). {_AGAIN}") from error
    answers = len(head.schema.columns)
    shapes = (head.weight.shape, head.bias.shape, head.dropout.shape)
    if shapes != ((answers, card.features), (answers,), (answers,)):
        raise RunError(f"{run / VOTES_WEIGHTS}: shapes {shapes} do not fit {answers} answers on {card.features} "
                       f"features: it is damaged. {_AGAIN}")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise RunError(f"{run / VOTES_WEIGHTS}: some weights are not finite; look at the run's training curve.")
    return head


_AGAIN = (
    "`sciencessl pretrain --resume --out RUN` writes it from the run's last checkpoint, if this version can continue "
    "that run; if not, train it again."
)


def _without(card: ModelCard) -> str:
    if card.averaged:
        return "An average has none: give the runs that it is the mean of."
    if not card.label_rows:
        return "The run learned from no labels: train one with `sciencessl pretrain --labels QUESTION...`."
    return (
        f"The run learned from {', '.join(card.label_rows)}. If these are classes, use `sciencessl transfer` and "
        f"predict with the model that it saves. If they are votes, an earlier version trained it: {_AGAIN}"
    )
