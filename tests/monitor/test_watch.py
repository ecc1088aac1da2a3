"""From the tensors of a step to numbers, and to words that are told once."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from sciencessl.methods.base import Method, Online
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.labels_only import LabelsOnly, LabelsOnlyOptions
from sciencessl.monitor import measures
from sciencessl.monitor.collapse import MEASURES
from sciencessl.monitor.watch import Monitor

SPREAD = {"std", "effective_rank", "rank_limit", "rankme", "alpha_req", "uniformity"}


class Encoder(nn.Linear):
    """A layer that counts as an encoder."""

    num_features = 4


def byol() -> Byol:
    torch.manual_seed(0)
    return Byol(Encoder(3, 4), ByolOptions(hidden=6, out=5), torch.Generator().manual_seed(1))


def rows(count: int, columns: int, seed: int) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))


def outputs(count: int = 30, predictions: int = 5) -> tuple[Online, list[Tensor]]:
    y, z, p, t = ([rows(count, columns, seed + view) for view in range(3)]
                  for seed, columns in ((0, 12), (10, 5), (20, predictions), (30, 5)))
    return Online(y, z, p), t[:2]


def test_a_reading_has_every_measure_as_a_plain_number() -> None:
    online, targets = outputs()
    found = Monitor().read(byol(), online, targets)
    assert found.keys() == MEASURES.keys()
    assert all(type(value) is float for value in found.values())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (y, other, _), (z, _, _), p = online.representations, online.projections, online.predictions[0]
    expected = {
        "std": measures.embedding_std(y), "effective_rank": measures.effective_rank(y), "rankme": measures.rankme(y),
        "lidar": measures.lidar(y, other), "alpha_req": measures.alpha_req(y),
        "alignment": measures.alignment(y, other),
        "projection_std": measures.embedding_std(z), "projection_rank": measures.effective_rank(z),
        "predictor_top": measures.predictor_spectrum(z, p).values[0], "target_distance": 0.0, "rank_limit": 12,
        "predictor_distance": (p - z).norm() / z.norm(), "target_cosine": measures.mean_cosine(z, targets[0]),
        "projection_rank_limit": 5,
    }
    plain = {name: float(value) for name, value in expected.items()}
    assert {name: found[name] for name in expected} == pytest.approx(plain, rel=1e-6)


def test_the_target_is_as_far_as_all_its_weights() -> None:
    method = byol()
    online, targets = outputs()
    with torch.no_grad():
        for weight in method.target_projector.parameters():
            weight += 1.0
    weights = [*method.target_encoder.parameters(), *method.target_projector.parameters()]
    slow = torch.cat([weight.flatten() for weight in weights])
    moved = sum(w.numel() for w in method.target_projector.parameters())
    found = Monitor().read(method, online, targets)["target_distance"]
    assert found == pytest.approx(math.sqrt(moved) / float(slow.norm()), rel=1e-6)


def test_a_reading_has_what_the_method_has() -> None:
    method = LabelsOnly(Encoder(3, 4), LabelsOnlyOptions(), torch.Generator())
    online, _ = outputs()
    assert Monitor().read(method, Online(online.representations[:1], [], []), []).keys() == SPREAD
    without = Monitor().read(method, Online(online.representations, online.projections, []), [])
    assert without.keys() == MEASURES.keys() - {name for name in MEASURES if name.startswith(("predictor", "target"))}
    scores, targets = outputs(predictions=40)
    assert MEASURES.keys() - Monitor().read(byol(), scores, targets).keys() == {"predictor_distance"}


def test_undefined_values_are_left_out() -> None:
    online, targets = outputs(count=3)
    assert MEASURES.keys() - Monitor().read(byol(), online, targets).keys() == {"alpha_req"}
    online, targets = outputs(count=1)
    assert Monitor().read(byol(), online, targets) == {}


def test_the_first_rows_of_a_large_batch_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    online, targets = outputs()
    few = Online(*([view[:8] for view in group]
                   for group in (online.representations, online.projections, online.predictions)))
    expected = Monitor().read(byol(), few, [view[:8] for view in targets])
    monkeypatch.setattr("sciencessl.monitor.watch.ROWS", 8)
    found = Monitor().read(byol(), online, targets)
    assert found == pytest.approx(expected)
    assert found["rank_limit"] == 7


def test_half_precision_is_read_as_it_is() -> None:
    online, targets = outputs()
    half = Online(*([view.bfloat16() for view in group]
                    for group in (online.representations, online.projections, online.predictions)))
    found = Monitor().read(byol(), half, targets)
    assert found["std"] == pytest.approx(float(measures.embedding_std(half.representations[0])), rel=1e-9)


BAD, WORSE = {"std": 0.5, "effective_rank": 1.5}, {"std": 0.01, "effective_rank": 1.5}
GOOD = {"std": 0.5, "effective_rank": 5.0}


def told(readings: list[dict[str, float]], last: int = -1) -> list[list[str]]:
    monitor = Monitor()
    found = [monitor.warnings(values, number == last) for number, values in enumerate(readings)]
    return [["point" if "to a point" in text else "line" for text in texts] for texts in found]


def test_two_readings_in_a_row_are_told_once() -> None:
    assert told([BAD, GOOD, BAD, BAD, BAD]) == [[], [], [], ["line"], []]
    assert told([BAD, BAD, WORSE, WORSE, BAD, BAD]) == [[], ["line"], [], ["point"], [], []]
    assert told([GOOD, GOOD, GOOD]) == [[], [], []]


def test_the_last_reading_is_told_at_once() -> None:
    assert told([GOOD, BAD], last=1) == [[], ["line"]]
    assert told([BAD], last=0) == [["line"]]
    assert told([BAD, BAD, BAD], last=2) == [[], ["line"], []]


def test_methods_without_a_target_have_no_pairs() -> None:
    class Plain(Method):
        def online(self, views: list[Tensor]) -> Online:  # type: ignore[override]
            return Online(views, [], [])

    assert Plain(Encoder(3, 4), None, torch.Generator()).target_pairs() == []
    assert [type(fast) for _, fast in byol().target_pairs()] == [Encoder, nn.Sequential]
