"""Patches and the error of those that were hidden, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciencessl.errors import ConfigError
from sciencessl.losses.reconstruction import hidden_cosine, hidden_square_error, normalised, patchify, unpatchify

HIDDEN = torch.tensor([[True, False, True, True], [False, True, True, True], [True, True, True, False]])


def patches(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize(
    ("channels", "height", "width", "patch"), [(3, 8, 8, (4, 4)), (5, 12, 8, (2, 4)), (1, 6, 6, (6, 6))]
)
def test_patches_are_put_back_where_they_were(channels: int, height: int, width: int, patch: tuple[int, int]) -> None:
    images = patches(2, channels, height, width)
    cut = patchify(images, patch)
    assert cut.shape == (2, height * width // (patch[0] * patch[1]), patch[0] * patch[1] * channels)
    assert torch.equal(unpatchify(cut, patch, height, width), images)


def test_patches_lie_row_by_row_with_the_channels_of_a_pixel_together() -> None:
    images = patches(2, 3, 8, 12)
    cut = patchify(images, (4, 4))
    for place, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        want = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(cut[:, place].numpy(), want.reshape(2, -1))


def test_images_that_are_no_whole_number_of_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match="10 x 8 pixels are not cut into patches of 4 x 4"):
        patchify(torch.zeros(1, 3, 10, 8), (4, 4))


def test_normalised_patches_equal_numpy() -> None:
    x = patches(3, 4, 12)
    array = x.numpy()
    want = (array - array.mean(-1, keepdims=True)) / np.sqrt(array.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normalised(x), want, rtol=1e-12)


def test_brightness_and_contrast_of_a_patch_change_nothing_and_a_flat_one_is_zero() -> None:
    x = patches(3, 4, 12)
    torch.testing.assert_close(normalised(5.0 * x + 3.0), normalised(x), rtol=1e-5, atol=1e-5)
    assert not bool(normalised(torch.full((1, 1, 12), 0.7, dtype=torch.float64)).abs().max() > 1e-9)


def test_the_error_is_the_mean_over_hidden_patches_alone() -> None:
    predicted, true = patches(3, 4, 5), patches(3, 4, 5) + 1
    each = ((predicted.numpy() - true.numpy()) ** 2).mean(axis=-1)
    want = [row[hidden].mean() for row, hidden in zip(each, HIDDEN.numpy(), strict=True)]
    np.testing.assert_allclose(hidden_square_error(predicted, true, HIDDEN), want, rtol=1e-12)
    single = hidden_square_error(predicted.float(), true.float(), HIDDEN)
    np.testing.assert_allclose(single, want, rtol=1e-6)
    # With equally many hidden patches a row, the mean of rows is the mean over all hidden patches.
    assert float(single.mean()) == pytest.approx(each[HIDDEN.numpy()].mean(), rel=1e-6)


def test_what_was_seen_has_exactly_no_gradient_and_neither_has_the_truth() -> None:
    predicted, true = patches(3, 4, 5).requires_grad_(), (patches(3, 4, 5) + 1).requires_grad_()
    hidden_square_error(predicted, true, HIDDEN).sum().backward()  # type: ignore[no-untyped-call]
    assert true.grad is None
    assert predicted.grad is not None
    assert torch.equal(predicted.grad.ne(0).any(dim=2), HIDDEN)
    with torch.no_grad():
        want = 2 * (predicted - true) / 5 / HIDDEN.sum(dim=1).reshape(3, 1, 1)
    torch.testing.assert_close(predicted.grad[HIDDEN], want[HIDDEN])


def test_what_is_seen_changes_nothing_whatever_it_is() -> None:
    predicted, true = patches(3, 4, 5), patches(3, 4, 5) + 1
    other = torch.where(HIDDEN.unsqueeze(2), predicted, torch.inf)
    assert torch.equal(hidden_square_error(predicted, true, HIDDEN), hidden_square_error(other, true, HIDDEN))


def test_the_cosine_of_hidden_patches_equals_numpy() -> None:
    predicted, true = patches(3, 4, 5), patches(3, 4, 5) + 1
    p, t = predicted.numpy(), true.numpy()
    each = (p * t).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(t, axis=-1)
    want = [row[hidden].mean() for row, hidden in zip(each, HIDDEN.numpy(), strict=True)]
    np.testing.assert_allclose(hidden_cosine(predicted, true, HIDDEN), want, rtol=1e-9)
    np.testing.assert_allclose(hidden_cosine(true, 3 * true, HIDDEN), 1.0, rtol=1e-9)


def test_losses_are_in_single_precision_at_least() -> None:
    half = patches(3, 4, 5).bfloat16()
    for function in (hidden_square_error, hidden_cosine):
        assert function(half, half + 1, HIDDEN).dtype == torch.float32
    assert normalised(half).dtype == torch.float32
