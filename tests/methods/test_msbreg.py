"""MSBReg's total against NumPy, against BYOL without its extra terms, and its draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.methods.byol import Byol
from sciencessl.methods.msbreg import Msbreg, MsbregOptions
from tests.methods.tiny import build, gradients, loss_of, outputs, predicted, train, unit, views


def numpy_terms(online: np.ndarray, targets: np.ndarray, kicks: np.ndarray, form: str) -> dict[str, float]:
    """Means over rows of (B, V, D) online and (B, W, D) target vectors and (B, D) directions."""
    zo, centre = unit(online), unit(targets).mean(axis=1)
    own = zo.mean(axis=1)
    cosines = (zo * unit(centre)[:, None]).sum(axis=2)
    attraction = {
        "squared": ((own - centre) ** 2).sum(axis=1), "cos": 1 - (unit(own) * unit(centre)).sum(axis=1),
        "ema": (2 - 2 * cosines).mean(axis=1),
    }[form]
    rows = zo.reshape(-1, zo.shape[2])
    values = np.sqrt(np.linalg.svd(rows, compute_uv=False) ** 2 + 1e-6)
    singular = 1 - values.sum() / np.sqrt(len(rows) * min(rows.shape))
    brownian = (zo * unit(kicks)[:, None]).sum(axis=2).mean()
    return {"attraction": float(attraction.mean()), "singular": float(singular), "brownian": float(brownian),
            "scale": float(-cosines.mean())}


@pytest.mark.parametrize("form", ["ema", "cos", "squared"])
@pytest.mark.parametrize(("large", "small", "rows"), [(2, 0, 6), (3, 2, 6), (2, 0, 2)])
def test_the_loss_of_random_rows_equals_numpy(form: str, large: int, small: int, rows: int) -> None:
    """With many vectors for few dimensions, and with fewer than those."""
    rng = np.random.default_rng(0)
    p, t = outputs(rng, large + small, rows=rows), outputs(rng, large, rows=rows)
    method = build(Msbreg, centroid=form, weight_singular=0.3, weight_brownian=0.2)
    torch.manual_seed(5)
    pair = method.pair_loss(predicted(*p), t)
    torch.manual_seed(5)
    arrays = [np.stack([x.detach().numpy() for x in group], axis=1) for group in (p, t)]
    want = numpy_terms(*arrays, torch.randn(rows, 5).numpy(), form)
    total = want["attraction"] + 0.3 * want["singular"] + 0.2 * want["brownian"]
    assert pair.total.item() / rows == pytest.approx(total, abs=1e-6)
    for name in ("singular", "brownian"):
        assert pair.logged[name].item() / rows == pytest.approx(want[name], abs=1e-6)
    assert pair.scale.item() / rows == pytest.approx(want["scale"], abs=1e-12)
    assert (pair.rows, pair.scale.requires_grad) == (rows, False)


def test_equal_views_and_no_other_term_are_half_of_byol() -> None:
    """BYOL's loss of one direction, and its gradient."""
    ours, byol = build(Msbreg, weight_singular=0.0, weight_brownian=0.0), build(Byol)
    given = [views()[0]] * 2
    assert loss_of(ours, given).item() == pytest.approx(0.5 * loss_of(byol, given).item(), rel=1e-12)
    found, want = gradients(ours, given), gradients(byol, given)
    assert found.keys() == want.keys()
    for name, gradient in want.items():
        torch.testing.assert_close(found[name], 0.5 * gradient, rtol=0, atol=1e-12)


def test_targets_get_no_gradient_and_all_that_is_trained_does() -> None:
    for form in ("ema", "cos", "squared"):
        method = build(Msbreg, centroid=form)
        found = gradients(method, views(3, small=1))
        assert found.keys() == {name for name, _ in method.named_parameters() if "target_" not in name}
        assert all(gradient.any() for name, gradient in found.items() if name != "encoder.0.bias")


def test_all_large_views_make_the_centre_and_small_ones_do_not() -> None:
    method, given = build(Msbreg), views(4, small=2)
    assert [len(method.online(given).predictions), len(method.target(given))] == [6, 4]


def test_the_kick_is_that_of_the_global_generator_and_new_each_time() -> None:
    """A generator state that is put back reproduces it."""
    method = build(Msbreg, weight_singular=0.0)
    state = torch.get_rng_state()
    first, second = loss_of(method, views()).item(), loss_of(method, views()).item()
    torch.set_rng_state(state)
    assert loss_of(method, views()).item() == first != second


def test_without_its_weight_nothing_is_drawn() -> None:
    method = build(Msbreg, weight_brownian=0.0)
    state = torch.get_rng_state()
    pair = method.pair_loss(method.online(views()), method.target(views()))
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pair.logged) == {"singular"}


@dataclass
class _OneOfTwo:
    """A rank that is told what all have."""

    everyone: Tensor

    def gather_learning(self, rows: Tensor) -> Tensor:
        assert len(rows) < len(self.everyone)
        return self.everyone


def test_singular_values_are_those_of_all_processes() -> None:
    """Each adds its rows' share: the two parts are the loss of one process with all rows."""
    rng = np.random.default_rng(1)
    p, t = outputs(rng, 2, rows=8), outputs(rng, 2, rows=8)
    method = build(Msbreg, weight_brownian=0.0, weight_singular=0.4)
    whole = method.pair_loss(predicted(*p), t).total.item()
    method.ranks = _OneOfTwo(torch.stack(p, dim=1).flatten(0, 1))
    parts = [method.pair_loss(predicted(*(x.chunk(2)[rank] for x in p)), [x.chunk(2)[rank] for x in t])
             for rank in (0, 1)]
    assert sum(part.total.item() for part in parts) == pytest.approx(whole, rel=1e-12)


def test_the_spread_undoes_a_collapse_that_attraction_alone_keeps() -> None:
    """Nearly equal vectors, their own targets: attraction is at its end, the singular values draw them apart."""
    rng = np.random.default_rng(2)
    start = torch.from_numpy(np.ones((16, 1, 5)) + 0.05 * rng.normal(size=(16, 1, 5))).expand(16, 2, 5)
    method = build(Msbreg, weight_brownian=0.0, weight_singular=1.0)
    free = start.clone().requires_grad_()
    method.pair_loss(predicted(*free.unbind(dim=1)), start.unbind(dim=1)).total.backward()
    assert free.grad is not None
    moved = free.detach() - free.grad
    before, after = (np.linalg.svd(unit(x.numpy()).reshape(-1, 5), compute_uv=False)[0] for x in (start, moved))
    assert after < before


def test_it_learns_in_a_few_steps() -> None:
    losses = [metrics["loss"] for metrics in train(build(Msbreg, weight_brownian=0.0), 8, views(3))]
    assert losses[-1] < losses[0]
    assert {"singular", "brownian"} <= train(build(Msbreg), 1, views())[0].keys()


def test_the_defaults_are_those_of_the_card() -> None:
    options = MsbregOptions()
    assert (options.centroid, options.weight_singular, options.weight_brownian) == ("ema", 0.1, 0.1)
    assert (options.hidden, options.out, options.tau_base) == (4096, 256, 0.996)
    assert Msbreg.status == "reconstructed"


@pytest.mark.parametrize("values", [{"weight_singular": -0.1}, {"weight_brownian": float("nan")},
                                    {"weight_brownian": float("inf")}, {"hidden": 0}])  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
        MsbregOptions(**values)


def test_an_unknown_centroid_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"options\.centroid.*ema"):
        MsbregOptions(centroid="mean")  # type: ignore[arg-type]
