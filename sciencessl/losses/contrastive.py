"""Contrastive losses: find the other view of a sample among other samples, by a softmax over cosines.

All of them compute in float32 at least, under autocast too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision
from sciencessl.losses.regression import cosines, unit


def nt_xent(views: Sequence[Tensor], keys: Sequence[Tensor], temperature: float, first: int = 0) -> Tensor:
    """SimCLR's loss: each view of a sample finds each key of the sample among the keys of all others.

    For view v and key a of sample i, with s the cosine over T,
    `-log [exp s(v_i, a_i) / (exp s(v_i, a_i) + sum over keys b and samples j != i of exp s(v_i, b_j))]`, mean over the
    pairs v != a. With two views, both of them keys, it is the paper's equation 1, of 2 N - 1 terms in the denominator.

    What the paper leaves open is ours: small views ask for the keys and are none, and of the sample's own keys only the
    one that is asked for is in a denominator. Gradient reaches views and keys.

    Args:
        views: V entries, (B, D): the rows of this process, of any length.
        keys: A entries, 2 to V, (N, D): the rows of the first A views on all processes.
        temperature: T, above 0.
        first: Where the rows of this process begin: `keys[a][first : first + B]` equals `views[a]`.

    Returns:
        (B,) in nats, 0 or more: log(1 + A (N - 1)) where all cosines are equal.

    Raises:
        ConfigError: For fewer than two keys or more than views, shapes that do not fit, or a T that is not above 0.

    Source: SimCLR (arXiv 2002.05709), equation 1 and algorithm 1; the released code minimises twice this mean.
    """
    if not 2 <= len(keys) <= len(views):
        raise ConfigError(
            f"contrastive loss: {len(keys)} keys and {len(views)} views; expected two keys or more, each of a view."
        )
    for rows in keys:
        _check(views[0], rows, temperature, first + len(views[0]))
    everyone, samples = torch.cat(list(keys)), len(keys[0])
    own = _own(len(views[0]), samples, first, everyone.device)
    found = []
    for v, view in enumerate(views):
        logits = cosines(view, everyone) / temperature
        # Not -inf: where nobody else is in the batch, its logarithm of a sum would have no gradient.
        others = logits.masked_fill(own.repeat(1, len(keys)), torch.finfo(logits.dtype).min).logsumexp(dim=1)
        starts = [samples * key + first for key in range(len(keys)) if key != v]
        found += [softplus(others - logits[:, start : start + len(view)].diagonal()) for start in starts]
    return torch.stack(found).mean(dim=0)


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """MoCo's loss: each query finds its own key among negatives that all queries share.

    `-log [exp(q k / T) / (exp(q k / T) + sum over n of exp(q n / T))]` of unit vectors. Gradient reaches queries alone.

    Args:
        queries: (B, D), of any length.
        keys: (B, D), of any length; row i is the key of query i.
        negatives: (K, D) of length 1, such as a queue; K of 1 or more.
        temperature: T, above 0.

    Returns:
        (B,) in nats, 0 or more: log(1 + K) where all cosines are equal.

    Raises:
        ConfigError: When shapes do not fit, or for a T that is not above 0.

    Source: MoCo (arXiv 1911.05722), equation 1, and its released code.
    """
    if queries.shape != keys.shape:
        raise ConfigError(
            f"contrastive loss: queries have shape {tuple(queries.shape)} and keys {tuple(keys.shape)}; expected one "
            "key a query, of the same width."
        )
    _check(queries, negatives, temperature, 1)
    queries, keys = (unit(rows) for rows in full_precision(queries, keys.detach()))
    with torch.autocast(queries.device.type, enabled=False):
        others = queries @ negatives.detach().to(queries).T / temperature
    return softplus(others.logsumexp(dim=1) - (queries * keys).sum(dim=1) / temperature)


def batch_nce(queries: Tensor, keys: Tensor, temperature: float, first: int = 0) -> Tensor:
    """MoCo v3's contrast: each query finds its own key among the keys of the whole batch.

    `-log [exp(q_i k_i / T) / sum over j of exp(q_i k_j / T)]` of unit vectors. Gradient reaches queries alone.

    Args:
        queries: (B, D): the rows of this process, of any length.
        keys: (N, D): those of all processes, of any length; row `first + i` is the key of query i.
        temperature: T, above 0.
        first: Where the rows of this process begin.

    Returns:
        (B,) in nats, 0 or more: log N where all cosines are equal.

    Raises:
        ConfigError: When shapes do not fit, or for a T that is not above 0.

    Source: MoCo v3 (arXiv 2104.02057), equation 1 and its released code, without the factor 2 T.
    """
    _check(queries, keys, temperature, first + len(queries))
    logits = cosines(queries, keys.detach()) / temperature
    return logits.logsumexp(dim=1) - logits[:, first : first + len(queries)].diagonal()


def _own(rows: int, samples: int, first: int, device: torch.device) -> Tensor:
    """(B, N): whether a column is the row's own sample."""
    return torch.arange(first, first + rows, device=device).unsqueeze(1) == torch.arange(samples, device=device)


def _check(queries: Tensor, keys: Tensor, temperature: float, least: int) -> None:
    if not temperature > 0:
        raise ConfigError(f"contrastive loss: the temperature is {temperature}; it must be above 0.")
    if queries.shape[1] != keys.shape[1] or len(keys) < least:
        raise ConfigError(
            f"contrastive loss: queries have shape {tuple(queries.shape)} and keys {tuple(keys.shape)}; expected keys "
            f"of the same width, {least} or more of them."
        )
