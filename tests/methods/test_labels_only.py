"""The arm without a pair loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sciencessl.config import RunConfig
from sciencessl.errors import ConfigError
from sciencessl.methods.labels_only import LabelsOnly, LabelsOnlyOptions


def test_it_forwards_the_first_view_only_and_has_no_pair_loss() -> None:
    encoder = nn.Linear(3, 2)
    encoder.num_features = 2
    method = LabelsOnly(encoder, LabelsOnlyOptions(), torch.Generator())
    view = torch.randn(4, 3)
    online = method.online([view])
    assert torch.equal(online.representations[0], encoder(view))
    assert (online.projections, online.predictions) == ([], [])
    assert method.pair_loss(online, method.target([view])) is None
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"encoder"}


def test_it_needs_labels() -> None:
    with pytest.raises(ConfigError, match=r"labels.*labels_only.*--labels"):
        RunConfig(data="x", method="labels_only")


def test_views_that_it_would_not_read_are_refused() -> None:
    method = LabelsOnly(nn.Linear(3, 2), LabelsOnlyOptions(), torch.Generator())
    method.check_views([(3, 8, 8)])
    with pytest.raises(ConfigError, match=r"no use for more than 1 view.*--views.large-views 1 --views.small-views 0"):
        method.check_views([(3, 8, 8), (3, 8, 8)])
