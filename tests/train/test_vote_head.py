"""The exported vote head is the trained one, and says what it cannot know."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciencessl.errors import RunError
from sciencessl.losses.dirichlet import DirichletHead
from sciencessl.spec import LabelSchema, Question
from sciencessl.train.checkpoint import checkpoints
from sciencessl.train.folder import read_model, write_model
from sciencessl.train.vote_head import VOTES, VOTES_WEIGHTS, VoteHead, read_vote_head, write_vote_head
from tests.train.stored import stored


def test_a_finished_run_exports_the_head_of_its_last_checkpoint(finished: Path) -> None:
    head, trained = read_vote_head(finished), stored(checkpoints(finished)[-1])
    assert [question.name for question in head.schema.questions] == ["smooth", "arms"]
    assert head.schema.columns == ("smooth_yes", "smooth_no", "arms_1", "arms_2", "arms_more")
    np.testing.assert_array_equal(head.weight, trained["terms.0.head.linear.weight"].numpy())
    np.testing.assert_array_equal(head.bias, trained["terms.0.head.linear.bias"].numpy())
    np.testing.assert_allclose(head.dropout, 0.2)


def test_concentrations_are_those_of_the_trained_head(finished: Path) -> None:
    head = read_vote_head(finished)
    features = np.random.default_rng(0).normal(size=(7, head.weight.shape[1])).astype(np.float32)
    module = DirichletHead(features.shape[1], 5, dropout=0.0)
    module.linear.load_state_dict({"weight": torch.tensor(head.weight), "bias": torch.tensor(head.bias)})
    expected = module(torch.tensor(features)).detach().numpy()
    np.testing.assert_allclose(head.concentrations(features), expected, rtol=1e-5)
    kept = np.random.default_rng(1).random(head.weight.shape) > 0.2
    kept[:] = kept[0]
    expected = module(torch.tensor(features * kept[0] / 0.8)).detach().numpy()
    np.testing.assert_allclose(head.concentrations(features, kept), expected, rtol=1e-5)
    assert np.isfinite(head.concentrations(features * 1e6)).all()


def test_a_question_without_its_parents_says_which_it_lacks(tmp_path: Path, tiny_run: Callable[..., Any]) -> None:
    tiny_run(tmp_path / "run", labels=["arms"], method="labels_only", options__hidden=None, options__out=None, steps=1)
    head = read_vote_head(tmp_path / "run")
    assert [(q.name, q.after) for q in head.schema.questions] == [("arms", ())]
    assert head.left_out == {"arms": ("smooth_no",)}


def test_runs_without_a_head_say_what_to_do(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="has no exported model"):
        read_vote_head(tmp_path)
    card = read_model(finished)
    encoder = {"weight": torch.zeros(1)}
    for changes, message in (
        ({"label_rows": {}}, "no head for votes .exported/votes.json.. The run learned from no labels: train one"),
        ({}, "learned from smooth, arms, class. .* an earlier version trained it: `sciencessl pretrain --resume"),
        ({"averaged": ("a", "b")}, "An average has none: give the runs that it is the mean of"),
    ):  # fmt: skip
        write_model(tmp_path, replace(card, **changes), encoder)
        with pytest.raises(RunError, match=message):
            read_vote_head(tmp_path)


def test_resuming_a_finished_run_writes_the_head_that_it_lacks(tmp_path: Path, tiny_run: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    tiny_run(run, steps=2)
    before = {name: (run / name).read_bytes() for name in (VOTES, VOTES_WEIGHTS)}
    for name in before:
        (run / name).unlink()
    tiny_run(run, resume=True)
    assert {name: (run / name).read_bytes() for name in before} == before


def test_damaged_heads_are_refused(tmp_path: Path, finished: Path) -> None:
    card = read_model(finished)
    write_model(tmp_path, card, {"weight": torch.zeros(1)})
    schema = LabelSchema("s", (Question("smooth", ("yes", "no")),))
    zeros = np.zeros((2, card.features), np.float32)
    good = VoteHead(schema, zeros, np.zeros(2, np.float32), np.full(2, 0.2, np.float32), {})
    for head, message in ((replace(good, weight=zeros[:, 1:]), "do not fit 2 answers on"),
                          (replace(good, bias=np.full(2, np.nan, np.float32)), "some weights are not finite")):
        write_vote_head(tmp_path, head)
        with pytest.raises(RunError, match=message):
            read_vote_head(tmp_path)
    write_vote_head(tmp_path, good)
    assert read_vote_head(tmp_path).schema == schema
    (tmp_path / VOTES).write_text(json.dumps({"schema": {}}))
    with pytest.raises(RunError, match=r"votes.json is damaged \(KeyError"):
        read_vote_head(tmp_path)
    write_vote_head(tmp_path, good)
    (tmp_path / VOTES_WEIGHTS).write_bytes(b"torn")
    with pytest.raises(RunError, match=r"votes.json is damaged \(SafetensorError"):
        read_vote_head(tmp_path)
