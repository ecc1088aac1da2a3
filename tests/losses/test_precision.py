from __future__ import annotations

import pytest
import torch

from sciencessl.losses.precision import full_precision


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.int64, torch.bfloat16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
    ],
)
def test_the_common_dtype_is_float32_at_least(given: tuple[torch.dtype, ...], expected: torch.dtype) -> None:
    raised = full_precision(*(torch.ones(2).to(dtype) for dtype in given))
    assert [tensor.dtype for tensor in raised] == [expected] * len(given)
