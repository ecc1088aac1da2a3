"""The protocol of a method: what the step asks for, and nothing about data, devices or optimisers.

A method is one file. It owns an online encoder and whatever else it needs (heads, a target, a queue), says what its
views are compared with, and updates what is not learned by gradient in `after_step`, once an optimiser step.

Draws (noise, masks) come from torch's global generator: the step sets it by seed, step and rank, so that a run that
goes on draws what it would have drawn. Shapes do not hang on values of tensors: memory is estimated without values.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from sciencessl.backbones.norms import replace_norms
from sciencessl.errors import ConfigError
from sciencessl.losses.linear import uniform_linear
from sciencessl.setting_groups import Norm
from sciencessl.train.ranks import ALONE


@dataclass(frozen=True)
class Online:
    """What the online network made of the views; one entry a view.

    Attributes:
        representations: (B, F) pooled encoder outputs y: what is evaluated, and what label heads read.
        projections: (B, D) projector outputs z; empty without a projector.
        predictions: (B, D) predictor outputs p; empty without a predictor.
    """

    representations: list[Tensor]
    projections: list[Tensor]
    predictions: list[Tensor]


@dataclass(frozen=True)
class PairLoss:
    """The pair loss of one micro-batch, as sums so that micro-batches and ranks add up.

    Attributes:
        total: Scalar, sum over rows of the loss that is minimised. A loss of the whole batch that belongs to no row
            (of a covariance, say) counts once a row of this process.
        scale: Scalar without gradient, sum over rows of what the label term is scaled by: the mean negative cosine of
            what is compared, over view pairs, in [-1, 1] a row, whatever the loss and its scale.
        rows: Number of rows B.
        logged: Further scalars without gradient for the log, sums over rows as well: their means are logged.
    """

    total: Tensor
    scale: Tensor
    rows: int
    logged: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """Base of every method.

    Class attributes:
        title: One line: name, and what it changes.
        paper: Where it was published.
        status: `verified` (read in official code), `reconstructed` (from the paper) or `ours`.
        cost: Operations of a step over those of BYOL with the same large encoder and two views: an online pass counts
            three, a target pass one, so BYOL's four come to 2 * 3 + 2 * 1.
        n_views: Large views of each sample that it needs, all of one size; the first views that it is given.
        multi_crop: Whether it learns from more views than these, small ones among them.
        exports: Name of the encoder that a run without label terms exports; with them it is `encoder`.
        own_buffers: Names of buffers that differ between the processes of a run, such as a queue of their own rows.
        Options: Frozen dataclass of its settings.

    Attributes:
        ranks: The processes that share a batch, where losses look at all of it; `parallel.wrap` sets it.

    Args:
        encoder: Maps (B, C, H, W) to (B, F) and has the attribute `num_features`; it may have `norm_kind`. It is built
            with the stochastic depth that `options.drop_path` asks for, where there is such an option.
        options: An `Options`.
        generator: Draws every initial weight that the encoder does not bring.
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    status: ClassVar[str]
    cost: ClassVar[float]
    n_views: ClassVar[int] = 2
    multi_crop: ClassVar[bool] = True
    exports: ClassVar[str] = "encoder"
    own_buffers: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type]

    def __init__(self, encoder: nn.Module, options: Any, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = encoder
        self.options = options
        self.ranks = ALONE

    @property
    def features(self) -> int:
        """F, the width of a representation."""
        return int(self.encoder.num_features)  # type: ignore[arg-type]

    @property
    def norm(self) -> Norm:
        """What normalises the encoder, and should normalise the heads: `batch` where the encoder does not say."""
        return cast("Norm", getattr(self.encoder, "norm_kind", "batch"))

    @abstractmethod
    def online(self, views: Sequence[Tensor]) -> Online:
        """Forward the online network, with gradient. Views are forwarded one after the other: batch statistics are
        those of one view, as in the reference."""

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Forward the target network, without gradient: one (B, D) tensor a view; none where there is no target."""
        return []

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss | None:
        """Compare the views; None for a method that learns from labels alone.

        Also called without gradient, when a step of several micro-batches is surveyed before it is taken: what a method
        remembers must not change then.
        """
        return None

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(target, online) modules of the same structure, where the target's weights follow the online ones; none
        without a target network. Monitors say how far apart they are."""
        return []

    def resting(self) -> Sequence[nn.Parameter]:
        """Parameters whose gradient is dropped before the next optimiser step: neither they nor their momentum move.

        In the loss they must have a gradient all the same, since processes wait for that of each parameter.
        """
        return ()

    def check_views(self, shapes: Sequence[Sequence[int]]) -> None:
        """Refuse views that it cannot learn from, before the run.

        Args:
            shapes: (C, H, W) of each view of a sample.

        Raises:
            ConfigError: With the setting that helps.
        """
        large = [shape for shape in shapes if tuple(shape) == tuple(shapes[0])]
        if len(large) < self.n_views:
            raise ConfigError(
                f"method {type(self).__name__} compares {self.n_views} large views of each sample, and gets "
                f"{len(large)} of {len(shapes)}. Set --views.large-views {self.n_views}."
            )
        if len(shapes) > self.n_views and not self.multi_crop:
            raise ConfigError(
                f"method {type(self).__name__} has no use for more than {self.n_views} view(s) of a sample, and gets "
                f"{len(shapes)}. Set --views.large-views {self.n_views} --views.small-views 0."
            )

    def at_step(self, step: int, total: int) -> None:
        """Told which step is to be taken, before its forward pass: what hangs on that is set here, not remembered.

        Not every caller tells; until then it is the first of many. Changes no parameter and no buffer.

        Args:
            step: As in `after_step`.
            total: As in `after_step`.
        """

    def at_batch(self, batch: int) -> None:
        """Told how many samples a step has: what belongs to another batch is scaled here.

        First with the batch that the run begins with, before the first step; where batches grow, again before each
        step. Not every caller tells; until then hyperparameters are used as given. Changes no parameter and no buffer.

        Args:
            batch: Samples of one optimiser step, over all micro-batches.

        Raises:
            ConfigError: When something cannot be scaled that far.
        """

    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Update what gradient does not, after the optimiser, once a step; return what should be logged.

        Args:
            step: Index k of the step just taken, from 0. Where batches grow, counted in batches of the first size.
            total: Steps K of the whole run, counted likewise.
        """
        return {}


def mlp(
    in_features: int, hidden: int, out_features: int, generator: torch.Generator, norm: Norm = "batch"
) -> nn.Sequential:
    """BYOL's head: Linear (bias) - BatchNorm - ReLU - Linear (no bias, no norm).

    Weights are drawn by torch's rule, U(-1/sqrt(in), 1/sqrt(in)), from `generator`. Batch norm has eps 1e-5 and
    decay 0.9. Source: BYOL's released code (byol/utils/networks.py); the initial distribution is torch's.

    Another `norm` replaces the batch norm as `replace_norms` says; `group_ws` standardises the last layer too, which no
    norm follows: the literal reading of arXiv 2010.10241, section 3.3.
    """
    return deep_mlp((in_features, hidden, out_features), generator, norm)


def deep_mlp(
    widths: Sequence[int], generator: torch.Generator, norm: Norm | None = "batch", bias: bool = True,
    end: Literal["linear", "biased", "scaled", "standardised"] = "linear",
) -> nn.Sequential:
    """A head of any depth: Linear - BatchNorm - ReLU for each hidden layer, and a last Linear; drawn as in `mlp`.

    Args:
        widths: Of the input, the hidden layers and the output; two or more.
        generator: Draws the weights, from the first layer to the last.
        norm: As in `mlp`; None for a head without any norm.
        bias: Whether hidden layers have a bias.
        end: The last layer: `linear` has no bias, `biased` has one, and a batch norm follows the `linear` one where it
            is `scaled` (a scale for each feature, the shift stays 0) or `standardised` (neither).
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(widths[:-1]):
        layers.append(_linear(width, following, bias, generator))
        layers += [] if norm is None else [nn.BatchNorm1d(following, eps=1e-5, momentum=0.1)]
        layers.append(nn.ReLU(inplace=True))
    layers.append(_linear(widths[-2], widths[-1], end == "biased", generator))
    if end in ("scaled", "standardised"):
        last = nn.BatchNorm1d(widths[-1], eps=1e-5, momentum=0.1, affine=end == "scaled")
        if end == "scaled":
            last.bias.requires_grad_(False)
        layers.append(last)
    return cast("nn.Sequential", replace_norms(nn.Sequential(*layers), norm or "batch"))


def _linear(in_features: int, out_features: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    bound = in_features**-0.5
    layer = uniform_linear(in_features, out_features, bound, (-bound, bound), generator)
    if not bias:
        layer.register_parameter("bias", None)
    return layer
