"""ConStyle's losses: numbers by hand, bounds, and where no gradient goes."""

from __future__ import annotations

import math

import pytest
import torch

from fairweather.losses.constyle import class_divergence, content_loss, info_nce, queue_logits, style_loss


def vectors(count: int, *, rows: int = 4, size: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, size, generator=generator, requires_grad=True) for _ in range(count)]


def test_unit_vectors_give_cosines_whatever_their_length() -> None:
    query, key, other = vectors(3)
    plain = queue_logits(query, key, other.T, temperature=0.5, normalize=True)
    torch.testing.assert_close(
        queue_logits(5 * query, 2 * key, 3 * other.T, temperature=0.5, normalize=True), plain
    )
    assert plain.abs().max() <= 1 / 0.5 + 1e-5
    torch.testing.assert_close(plain[:, 0], torch.cosine_similarity(query, key) / 0.5)
    torch.testing.assert_close(plain[1, 3], torch.cosine_similarity(query[1], other[2], dim=0) / 0.5)


def test_without_a_queue_that_tells_anything_the_loss_is_chance() -> None:
    query, key = torch.zeros(3, 4), torch.zeros(3, 4)
    assert info_nce(queue_logits(query, key, torch.zeros(4, 99))) == pytest.approx(math.log(100), abs=1e-5)


@pytest.mark.parametrize("gram", ["batch", "channel"])
def test_no_gradient_reaches_keys_negatives_and_queue(gram: str) -> None:
    query, hidden, key, n0, n1 = vectors(5)
    queue = vectors(1, rows=6, size=9)[0]
    loss = info_nce(queue_logits(query, key, queue, normalize=True)) + content_loss(query, key)
    loss = loss + style_loss((hidden, query), (n0, n1), gram=gram)  # type: ignore[arg-type]
    (loss + class_divergence(query, key)).backward()
    assert [v.grad is not None for v in (query, hidden, key, n0, n1, queue)] == [True, True, *[False] * 4]


def test_the_bounded_style_loss_is_the_cosine_of_the_gram_matrices_of_style_transfer() -> None:
    v1, v2, n0, n1 = vectors(4)
    expected = sum(
        torch.cosine_similarity((v.T @ v).flatten(), (n.T @ n).flatten(), dim=0)
        for v, n in ((v1, n0), (v2, n1))
    )
    loss = style_loss((v1, v2), (n0, n1), gram="channel")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(style_loss((9 * v1, v2), (n0, n1), gram="channel"), loss)
    torch.testing.assert_close(style_loss((v1, v2), (v1, -v2), gram="channel"), torch.tensor(2.0))
    apart = torch.eye(4)
    assert style_loss((apart[:2], apart[:2]), (apart[2:], apart[2:]), gram="channel") == 0
    assert style_loss((torch.zeros(2, 4),) * 2, (apart[2:],) * 2, gram="channel") == 0


def test_the_released_style_loss_grows_without_bound() -> None:
    v1, v2, n0, n1 = vectors(4)
    assert style_loss((100 * v1, 100 * v2), (n0, n1)) < 1000 * style_loss((v1, v2), (n0, n1)) < 0


def test_equal_class_distributions_do_not_diverge() -> None:
    query, key = (v.detach() for v in vectors(2))
    assert class_divergence(query, query + 3) == pytest.approx(0, abs=1e-6)
    p, q = key.softmax(1), query.softmax(1)
    torch.testing.assert_close(class_divergence(query, key), (p * (p / q).log()).sum(1).mean())
