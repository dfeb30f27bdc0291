"""The losses that train the ConStyle encoder (IRConStyle, arXiv 2402.15784; ConStyle v2, arXiv 2406.18242).

Vectors are (b, 128); keys and negatives get no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Gram = Literal["batch", "channel"]
"""batch: of the pictures among each other, as released. channel: of the vectors' elements, ours."""


def queue_logits(
    query: Float[Tensor, "b d"],
    key: Float[Tensor, "b d"],
    queue: Float[Tensor, "d k"],
    *,
    temperature: float = 0.07,
    normalize: bool = False,
) -> Float[Tensor, "b 1+k"]:
    """Products of each query with its own key (column 0) and with the vectors in the queue, over the temperature.

    Args:
        normalize: give all vectors unit length first, so that the products are cosines; the release does not, and
            long vectors then outweigh everything.

    >>> queue_logits(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(2, 3), temperature=0.5)
    tensor([[4., 0., 0., 0.]])
    """
    key, queue = key.detach(), queue.detach()
    if normalize:
        query, key, queue = F.normalize(query, dim=1), F.normalize(key, dim=1), F.normalize(queue, dim=0)
    own = (query * key).sum(dim=1, keepdim=True)  # b 1
    return torch.cat([own, query @ queue], dim=1) / temperature


def info_nce(logits: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Cross entropy of (positive, negatives) / temperature, with the positive in column 0.

    >>> info_nce(torch.zeros(2, 4))
    tensor(1.3863)
    """
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def content_loss(query: Float[Tensor, "b d"], key: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Be like the clean picture: mean squared distance of its vector (no gradient) and ours.

    >>> content_loss(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(1.)
    """
    return F.mse_loss(query, key.detach())


def style_loss(
    vectors: tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]],
    negatives: tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]],
    *,
    gram: Gram = "batch",
) -> Float[Tensor, ""]:
    """Be unlike earlier degraded pictures, by Gram matrices.

    batch: minus the squared distance of a a^T / (d b), b x b, unbounded below: what the release does.
    channel: the cosine between the matrices a^T a, d x d, of style transfer: at least 0 for each pair of vectors, at
    most 1, and of no unit.

    Args:
        vectors: (v1, v2) of the query. negatives: (n0, n1) from the queue; no gradient.

    >>> style_loss((torch.ones(2, 1),) * 2, (torch.zeros(2, 1),) * 2)
    tensor(-0.5000)
    >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> style_loss((a, a), (a, b), gram="channel")
    tensor(1.5000)
    """
    compare = _apart if gram == "batch" else _cosine
    losses = [compare(v, n.detach()) for v, n in zip(vectors, negatives, strict=True)]
    return torch.stack(losses).sum()


def _apart(a: Float[Tensor, "b d"], n: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    return -F.mse_loss(a @ a.T / a.numel(), n @ n.T / n.numel())


def _cosine(a: Float[Tensor, "b d"], n: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """<a^T a, n^T n> = |a n^T|^2, so that no d x d matrix is needed."""
    lengths: Tensor = (a @ a.T).norm() * (n @ n.T).norm()
    return (a @ n.T).square().sum() / lengths.clamp_min(1e-12)


def class_divergence(query: Float[Tensor, "b c"], key: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """KL(key || query) of two class distributions, given as logits, mean over the batch; no gradient into the key.

    >>> class_divergence(torch.zeros(2, 2), torch.tensor([[0.0, 100.0]] * 2))
    tensor(0.6931)
    """
    return F.kl_div(query.log_softmax(1), key.detach().log_softmax(1), reduction="batchmean", log_target=True)
