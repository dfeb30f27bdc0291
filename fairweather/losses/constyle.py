"""The three losses that train the ConStyle encoder (IRConStyle, arXiv 2402.15784).

The functions take what `ConStyleTrainer` returns; vectors are (b, 128).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


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
) -> Float[Tensor, ""]:
    """Be unlike earlier degraded pictures: minus the squared distance of Gram matrices, unbounded below.

    The Gram matrix a a^T / (d b) is taken over the batch (b x b), as the release does, not over channels.

    Args:
        vectors: (v1, v2) of the query. negatives: (n0, n1) from the queue; no gradient.

    >>> style_loss((torch.ones(2, 1),) * 2, (torch.zeros(2, 1),) * 2)
    tensor(-0.5000)
    """
    losses = [-F.mse_loss(_gram(v), _gram(n.detach())) for v, n in zip(vectors, negatives, strict=True)]
    return torch.stack(losses).sum()


def _gram(a: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    return a @ a.T / a.numel()
