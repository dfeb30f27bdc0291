"""Convolutions made of convolutions: the identities that networks are folded by for inference.

All is computed in double precision, once.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64
from torch import Tensor, nn


def absorb_batch_norm(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Move a batch norm, which in evaluation is a scale and a shift, into the layer right before it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    if layer.bias is not None:
        bias += layer.bias.double() * scale
    layer.weight.copy_((layer.weight.double().flatten(1) * scale[:, None]).view_as(layer.weight))
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)


def without_batch_norms(layers: nn.Sequential) -> nn.Sequential:
    """Layers in a row, each batch norm absorbed by the layer before it."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            before = kept[-1]
            assert isinstance(before, nn.Conv2d | nn.Linear)
            absorb_batch_norm(before, layer)
        else:
            kept.append(layer)
    return nn.Sequential(*kept)


def merged(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One convolution for a 1x1 convolution, dense or depthwise, and the dense one after it.

    The first has no bias if the second pads zeros.
    """
    assert first.kernel_size == first.stride == (1, 1)
    assert first.groups in (1, first.in_channels)
    assert second.groups == 1
    assert first.bias is None or not _pads(second), "a padded border would get the first one's bias"
    inner = first.weight.double().flatten(1)  # mid in
    if first.groups > 1:
        inner = inner.flatten().diag()
    outer = second.weight.double()  # out mid kh kw
    bias = None
    if first.bias is not None or second.bias is not None:
        bias = bias_of(second) + outer.sum((2, 3)) @ bias_of(first)
    return convolution(torch.einsum("omhw,mi->oihw", outer, inner), bias, like=second)


def merged_chain(*layers: nn.Module) -> nn.Sequential:
    """Layers in a row, with each 1x1 convolution that a dense one follows merged into that."""
    chain: list[nn.Module] = []
    for layer in layers:
        before = chain[-1] if chain else None
        if (
            isinstance(layer, nn.Conv2d)
            and isinstance(before, nn.Conv2d)
            and before.kernel_size == (1, 1)
            and layer.groups == 1
        ):
            chain[-1] = merged(before, layer)
        else:
            chain.append(layer)
    return nn.Sequential(*chain)


def merged_through_shuffle(up: nn.Conv2d, mix: nn.Conv2d) -> nn.Conv2d:
    """One convolution before a pixel shuffle by 2, for a convolution, that shuffle and a 1x1 convolution `mix`.

    >>> up, mix = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(2, 5, 1, bias=False)
    >>> x = torch.rand(1, 3, 4, 4)
    >>> one = merged_through_shuffle(up.requires_grad_(False), mix.requires_grad_(False))(x)
    >>> torch.testing.assert_close(nn.functional.pixel_shuffle(one, 2), mix(nn.functional.pixel_shuffle(up(x), 2)))
    """
    assert up.bias is None
    assert mix.kernel_size == (1, 1)
    shape = mix.in_channels, 4, *up.weight.shape[1:]
    places = up.weight.double().view(shape)  # mid place cin kh kw
    weight = torch.einsum("om,mpihw->opihw", mix.weight.double().flatten(1), places).flatten(0, 1)
    bias = None if mix.bias is None else bias_of(mix).repeat_interleave(4)
    return convolution(weight, bias, like=up)


def part(conv: nn.Conv2d, first: int, end: int) -> nn.Conv2d:
    """What a convolution does with its inputs `first` to `end` (exclusive), without its bias."""
    return columns(conv, torch.arange(first, end))


def rows(conv: nn.Conv2d, chosen: Int64[Tensor, " n"]) -> nn.Conv2d:
    """The outputs of a dense or depthwise convolution that have these numbers, in this order, where -1 gives 0.

    A depthwise one takes inputs in the same order.
    """
    weight, bias = conv.weight.double(), bias_of(conv)
    weight, bias = (torch.cat((x, torch.zeros_like(x[:1])))[chosen] for x in (weight, bias))
    groups = 1 if conv.groups == 1 else len(chosen)
    return convolution(weight, None if conv.bias is None else bias, like=conv, groups=groups)


def columns(conv: nn.Conv2d, chosen: Int64[Tensor, " n"]) -> nn.Conv2d:
    """What a dense convolution does with its inputs of these numbers, in this order, without its bias; -1 is none."""
    weight = conv.weight.double()
    weight = torch.cat((weight, torch.zeros_like(weight[:, :1])), dim=1)[:, chosen]
    return convolution(weight, None, like=conv)


def dealt_out(channels: int, maps: int) -> Int64[Tensor, "maps places"]:
    """Numbers of channels dealt out to maps like cards: channel i goes to map i % maps, place i // maps.

    The places are a multiple of 16, which kernels like; -1 is in those that are left.

    >>> dealt_out(5, 2)[:, :4]
    tensor([[ 0,  2,  4, -1],
            [ 1,  3, -1, -1]])
    """
    places = -(-channels // (16 * maps)) * 16
    return F.pad(torch.arange(channels), (0, maps * places - channels), value=-1).view(places, maps).T.clone()


def shifted(numbers: Int64[Tensor, " *n"], by: int) -> Int64[Tensor, " *n"]:
    """Numbers of channels from `by` on instead of 0; -1 stays none."""
    return torch.where(numbers < 0, -1, numbers + by)


def pieces(shares: Iterable[Int64[Tensor, " _"]], *convs: nn.Conv2d) -> list[nn.Sequential]:
    """A convolution and depthwise ones behind, as a chain for each share of the outputs: maps that are cut are copied.

    Args:
        shares: numbers of outputs, as `rows` takes them.
    """
    return [nn.Sequential(*(rows(conv, share) for conv in convs)) for share in shares]


def mixed(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One convolution for any convolution and the 1x1 convolution after it."""
    assert second.kernel_size == second.stride == (1, 1)
    assert first.groups == second.groups == 1
    outer = second.weight.double().flatten(1)  # out mid
    bias = None
    if first.bias is not None or second.bias is not None:
        bias = bias_of(second) + outer @ bias_of(first)
    return convolution(torch.einsum("om,mihw->oihw", outer, first.weight.double()), bias, like=first)


def stacked(*convs: nn.Conv2d) -> nn.Conv2d:
    """Convolutions of one map, equal but for their weights, as one whose outputs are theirs in this order."""
    biases = None if all(conv.bias is None for conv in convs) else torch.cat([bias_of(c) for c in convs])
    return convolution(torch.cat([conv.weight.double() for conv in convs]), biases, like=convs[0])


def convolution(
    weight: Float64[Tensor, "out cin kh kw"],
    bias: Float64[Tensor, " out"] | None,
    *,
    like: nn.Conv2d,
    groups: int | None = None,
) -> nn.Conv2d:
    """A convolution of these weights; its stride, padding, dilation, precision, perhaps groups are those of another."""
    groups = groups or like.groups
    made = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=like.stride,  # type: ignore[arg-type]
        padding=like.padding,  # type: ignore[arg-type]
        dilation=like.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=bias is not None,
        padding_mode=like.padding_mode,
        device=like.weight.device,
        dtype=like.weight.dtype,
    ).requires_grad_(False)
    made.weight.copy_(weight)
    if bias is not None:
        set_bias(made, bias)
    return made.eval()


def bias_of(conv: nn.Conv2d) -> Float64[Tensor, " out"]:
    """The bias in double precision, zeros where there is none."""
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    return conv.bias.double()


def set_bias(conv: nn.Conv2d, bias: Float64[Tensor, " out"]) -> None:
    """Give a convolution a bias, in the precision of its weights."""
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def relus_in_place(layers: nn.Module) -> None:
    """ReLUs write over what they read, which is never read again."""
    for layer in layers.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True


def _pads(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and conv.padding not in ((0, 0), "valid")
