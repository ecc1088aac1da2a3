"""`benchmarks/dirichlet.py`: votes of several campaigns, a loop beside ours, and the check that both agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sciencessl.errors import SciencesslError


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("dirichlet")


def test_every_galaxy_has_votes_of_one_campaign(script: Any) -> None:
    schema = script.questions()
    assert len(schema.columns) == 200
    votes = script.survey(schema, 12, np.random.default_rng(0))
    campaigns = [question.name.rpartition("-")[2] for question in schema.questions for _ in question.answers]
    for row, expected in zip(votes, ("dr12", "dr5", "dr8", "gz2", "candels", "hubble") * 2, strict=True):
        assert {campaigns[column] for column in row.nonzero().flatten().tolist()} == {expected}
        first = campaigns.index(expected)
        assert float(row[first : first + 3].sum()) == script.VOLUNTEERS


def test_ways_that_differ_are_not_timed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = script.per_question_loop
    counts, groups = torch.tensor([[3.0, 1.0, 0.0, 2.0]]), ((0, 2), (2, 4))
    assert script.check_equal(counts, torch.tensor([[2.0, 5.0, 1.5, 9.0]]), groups) < 1e-6
    monkeypatch.setattr(script, "per_question_loop", lambda k, a, g: loop(k, a, g) + 1e-3 * a[:, :1])
    with pytest.raises(SciencesslError, match="ours and the loop differ by"):
        script.check_equal(counts, torch.tensor([[2.0, 5.0, 1.5, 9.0]]), groups)


def test_output(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["dirichlet.py", "--quick", "--json", "--galaxies", "12"])
    script.main()
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["absent"]) == ("dirichlet", [])
    assert set(found["ratios"]) == {"per_question_loop", "per_question_loop_all_voted"}
    # 12 rows leave nothing but overhead, of which a loop has 66 times as much.
    assert found["ratios"]["per_question_loop"] > 2
    assert (found["absolute"]["answers"], found["absolute"]["questions"]) == (200, 66)
