"""TriBYOL's loss and targets against the numbers of its card, against NumPy and against BYOL."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.methods.byol import Byol
from sciencessl.methods.tribyol import Tribyol, TribyolOptions
from tests.methods.tiny import at_cosine, build, gradients, loss_of, outputs, predicted, train, unit, views

AXIS = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def numpy_loss(p: list[np.ndarray], z: list[np.ndarray], symmetric: bool) -> float:
    """D(p, z) = |p/|p| - z/|z||^2 of targets a1, a2, b1, b3, or a2 and b3."""
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(((unit(a) - unit(b)) ** 2).sum(axis=1).mean())

    if symmetric:
        a1, a2, b1, b3 = z
        first, second = distance(p[0], a2) + distance(p[1], a1), distance(p[0], b3) + distance(p[2], b1)
        return 0.5 * first + 0.5 * second
    return distance(p[0], z[0]) + distance(p[0], z[1])


def test_the_loss_is_that_of_the_card() -> None:
    """Cosines .9, .8, .7, .6: distances .2, .4, .6, .8, whose sum is 2, and half of it 1; one way .2 + .6."""
    a2, a1, b3, b1 = at_cosine(0.9, 0.8, 0.7, 0.6)
    p = predicted(AXIS, 3 * AXIS, 0.2 * AXIS)
    each = [2 - 2 * float((AXIS * z).sum()) for z in (a2, a1, b3, b1)]
    assert each == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert sum(each) == pytest.approx(2.0)
    pair = build(Tribyol).pair_loss(p, [a1, a2, b1, b3])
    assert float(pair.total) == pytest.approx(1.0, abs=1e-12)
    assert float(pair.scale) == pytest.approx(-0.75, abs=1e-12)
    one_way = build(Tribyol, symmetric=False).pair_loss(predicted(AXIS), [a2, b3])
    assert float(one_way.total) == pytest.approx(0.8, abs=1e-12)
    assert float(one_way.scale) == pytest.approx(-0.8, abs=1e-12)
    assert (pair.rows, one_way.rows) == (1, 1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_loss_of_random_rows_equals_numpy(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    p, z = outputs(rng, 3 if symmetric else 1), outputs(rng, 4 if symmetric else 2)
    method = build(Tribyol, symmetric=symmetric)
    pair = method.pair_loss(predicted(*p), [t.detach() for t in z])
    want = numpy_loss([t.detach().numpy() for t in p], [t.detach().numpy() for t in z], symmetric)
    assert float(pair.total.detach()) / pair.rows == pytest.approx(want, abs=1e-12)


def test_equal_cosines_cost_what_they_cost_in_byol() -> None:
    """4 - 4c, so that the learning rate carries over."""
    a, b, c, d = at_cosine(0.3, 0.3, 0.3, 0.3)
    ours = build(Tribyol).pair_loss(predicted(AXIS, AXIS, AXIS), [a, b, c, d])
    assert float(ours.total) == pytest.approx(4 - 4 * 0.3, abs=1e-12)
    assert float(build(Byol).pair_loss(predicted(AXIS, AXIS), [a, b]).total) == pytest.approx(float(ours.total))


def test_a_third_view_equal_to_the_second_and_equal_targets_are_byol() -> None:
    first, second = views()
    ours, byol = build(Tribyol), build(Byol)
    ours.load_state_dict(byol.state_dict(), strict=False)
    assert loss_of(ours, [first, second, second]).item() == pytest.approx(loss_of(byol, [first, second]).item())
    found, want = gradients(ours, [first, second, second]), gradients(byol, [first, second])
    assert found.keys() == want.keys()
    for name, gradient in want.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


def test_only_the_first_view_is_special() -> None:
    """Second view and first target swapped with third view and second target: the same loss."""
    method = build(Tribyol)
    train(method, 3, views(3))
    assert not torch.equal(method.target_projector[0].weight, method.second_target_projector[0].weight)
    swapped = copy.deepcopy(method)
    swapped.load_state_dict({_other(name): value for name, value in method.state_dict().items()})
    first, second, third = views(3)
    loss = loss_of(method, [first, second, third]).item()
    assert loss_of(swapped, [first, third, second]).item() == pytest.approx(loss, abs=1e-12)
    assert loss_of(method, [second, first, third]).item() != pytest.approx(loss, abs=1e-6)


def _other(name: str) -> str:
    return name.replace("second_", "", 1) if name.startswith("second_") else name.replace("target_", "second_target_")


def weights(method: Any, prefix: str) -> list[Tensor]:
    return [p.detach().clone() for name, p in method.named_parameters() if name.startswith(prefix)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def drift(method: Any) -> None:
    with torch.no_grad():
        for parameter in (*method.encoder.parameters(), *method.projector.parameters()):
            parameter.add_(1.0)


def test_targets_move_in_turn() -> None:
    """After two steps each moved once, by (1 - tau) of the way; the first one first."""
    method = build(Tribyol, tau_schedule="constant")
    starts = weights(method, "target_")
    drift(method)
    method.after_step(0, 10)
    moved, kept = weights(method, "target_"), weights(method, "second_target_")
    assert same(kept, starts)
    for now, before in zip(moved, starts, strict=True):
        torch.testing.assert_close(now, before + 0.1, rtol=0, atol=1e-12)
    method.after_step(1, 10)
    assert same(weights(method, "target_"), moved)
    assert same(weights(method, "second_target_"), moved)


def test_moving_both_keeps_equal_targets_equal() -> None:
    method = build(Tribyol, targets="both")
    train(method, 3, views(3))
    first, second = weights(method, "target_"), weights(method, "second_target_")
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) == 0
    assert not same(first, weights(build(Tribyol, targets="both"), "target_"))


def test_targets_take_turns_where_batches_grow_and_after_a_resume() -> None:
    """A defect elsewhere: with the step's index for a count, a doubled batch would move the even target alone."""
    method = build(Tribyol, tau_schedule="constant")
    drift(method)
    method.after_step(0, 10)
    first = weights(method, "target_")
    resumed = build(Tribyol, seed=1, tau_schedule="constant")
    resumed.load_state_dict(method.state_dict())
    for later in (method, resumed):
        later.after_step(2, 10)
        assert same(weights(later, "target_"), first)
        assert same(weights(later, "second_target_"), first)
        later.after_step(4, 10)
        assert not same(weights(later, "target_"), first)


def test_a_target_moved_in_turn_has_the_square_root_of_its_momentum_a_step() -> None:
    """0.996 becomes 0.997998; two steps leave tau of the distance, as 0.997998 twice would."""
    assert math.sqrt(0.996) == pytest.approx(0.997998, abs=5e-7)
    method = build(Tribyol, tau_base=0.996, tau_schedule="constant")
    drift(method)
    apart = _apart(method)
    for step in range(2):
        assert method.after_step(step, 10)["tau"] == 0.996
    assert _apart(method) / apart == pytest.approx(0.997998**2, abs=1e-6)


def _apart(method: Any) -> float:
    return float((method.target_projector[0].weight - method.projector[0].weight).detach()[0, 0])


def test_targets_get_no_gradient_and_all_that_is_trained_does() -> None:
    for symmetric in (True, False):
        method = build(Tribyol, symmetric=symmetric)
        found = gradients(method, views(3, small=1))
        assert found.keys() == {name for name, _ in method.named_parameters() if "target_" not in name}
        assert all(gradient.any() for name, gradient in found.items() if name != "encoder.0.bias")


def test_small_views_predict_each_target_and_are_none() -> None:
    """Each target from the mean over the large view beside it and the small one, which predicts none of them: half."""
    across = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    z = at_cosine(0.9, 0.8, 0.7, 0.6)
    pair = build(Tribyol).pair_loss(predicted(AXIS, AXIS, AXIS, across), z)
    assert float(pair.scale) == pytest.approx(-0.375, abs=1e-12)
    given = views(3, small=2)
    method = build(Tribyol)
    assert [len(method.online(given).predictions), len(method.target(given))] == [5, 4]
    one_way = build(Tribyol, symmetric=False)
    assert [len(one_way.online(given).predictions), len(one_way.target(given))] == [3, 2]
    across_one = one_way.pair_loss(predicted(AXIS, across), z[:2])
    assert float(across_one.scale) == pytest.approx(-0.425, abs=1e-12)


def test_the_defaults_are_those_of_the_card() -> None:
    options = TribyolOptions()
    assert (options.hidden, options.out, options.tau_base, options.targets) == (512, 128, 0.996, "alternate")
    assert Tribyol.cost == 13 / 8
    assert len(build(Tribyol).target_pairs()) == 4


def test_it_learns_in_a_few_steps() -> None:
    losses = [metrics["loss"] for metrics in train(build(Tribyol), 8, views(3))]
    assert losses[-1] < losses[0]


def test_options_and_views_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.targets is 'none'; it must be 'alternate' or 'both'"):
        TribyolOptions(targets="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"options\.tau_base"):
        TribyolOptions(tau_base=1.5)
    with pytest.raises(ConfigError, match="compares 3 large views of each sample, and gets 2"):
        build(Tribyol).check_views([(3, 8, 8)] * 2)
