"""Blocks and filters that several parts share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels at each position, biased variance.

    Args:
        channels: c.
        eps: added to the variance.

    >>> LayerNorm2d(4)(torch.randn(1, 4, 2, 2)).mean().abs() < 1e-6
    tensor(True)
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if torch.onnx.is_in_onnx_export():  # other libraries would copy the map for each permutation
            x = x - x.mean(dim=1, keepdim=True)
            length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            scale = (length.square() / len(self.weight) + self.eps).rsqrt()
            y: Tensor = x * scale * self.weight[:, None, None] + self.bias[:, None, None]
            return y
        # In channels-last memory both permutations are free and the norm reads contiguous rows.
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def learns_in_half_on_cpu(x: Tensor) -> bool:
    """Whether this is training in bf16 on a CPU, where some of oneDNN's gradients are slow or wrong."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def depthwise_convolution(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c 1 k k"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    padding: int,
    dilation: int = 1,
) -> Float[Tensor, "b c h2 w2"]:
    """Each channel with a kernel of its own; padded with zeros, by no more than the kernel reaches.

    In training in bf16 on a CPU large or dilated kernels have gradients of our own: oneDNN's take up to ten times as
    long as a convolution with the mirrored kernel (of the map) and four times as long as in fp32 (of the kernels).

    >>> depthwise_convolution(torch.ones(1, 2, 3, 3), torch.ones(2, 1, 5, 5), padding=2)[0, :, 1, 1]
    tensor([9., 9.])
    """
    large = weight.shape[-1] > 3 or (weight.shape[-1] > 1 and dilation > 1)
    if large and learns_in_half_on_cpu(x):
        half = torch.get_autocast_dtype("cpu")
        y: Tensor = _Depthwise.apply(x.to(half), weight.to(half), padding, dilation)  # type: ignore[no-untyped-call]
        return y if bias is None else y + bias.to(half)[:, None, None]
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=x.shape[1])


class _Depthwise(torch.autograd.Function):
    """The same with gradients of our own; that of the kernels, in fp32, is the more exact one, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.how = padding, {"dilation": dilation, "groups": x.shape[1]}
        return F.conv2d(x, weight, padding=padding, **ctx.how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        needed, of_x, of_weight = ctx.needs_input_grad, None, None
        if needed[0]:
            reach = (weight.shape[-1] - 1) * ctx.how["dilation"]
            of_x = F.conv2d(gradient, weight.flip(2, 3), padding=reach - ctx.padding, **ctx.how)
        if needed[1]:
            exact = x.float(), weight.shape, gradient.float()
            of_weight = conv2d_weight(*exact, padding=ctx.padding, **ctx.how)  # type: ignore[no-untyped-call]
            of_weight = of_weight.to(weight.dtype)
        return of_x, of_weight, None, None


class Depthwise(nn.Conv2d):
    """A depthwise convolution that keeps the size, by `depthwise_convolution`; arguments as of `nn.Conv2d`.

    >>> Depthwise(4, 5, padding_mode="reflect")(torch.rand(1, 4, 3, 3)).shape
    torch.Size([1, 4, 3, 3])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        bias: bool = False,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
    ) -> None:
        super().__init__(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=channels,
            bias=bias,
            padding_mode=padding_mode,
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        padding = int(self.padding[0])
        if self.padding_mode != "zeros":
            x = F.pad(x, (padding,) * 4, mode=self.padding_mode)
            padding = 0
        return depthwise_convolution(x, self.weight, self.bias, padding=padding, dilation=self.dilation[0])


def pad_to_multiple(
    x: Float[Tensor, "b c h w"], multiple: int, *, mode: str = "reflect"
) -> Float[Tensor, "b c h2 w2"]:
    """Pad on the right and at the bottom until both sides are multiples of `multiple`.

    Args:
        x: any size from 1x1 up.
        multiple: what a network's down-sampling steps need.
        mode: "reflect" (a side too short to mirror is extended by its last row or column instead) or "zero".

    >>> pad_to_multiple(torch.zeros(1, 3, 75, 53), 8).shape
    torch.Size([1, 3, 80, 56])
    """
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if mode == "zero":
        return F.pad(x, (0, right, 0, bottom))
    if right:
        x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < x.shape[-1] else "replicate")
    if bottom:
        x = F.pad(x, (0, 0, 0, bottom), mode="reflect" if bottom < x.shape[-2] else "replicate")
    return x


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision as float32, for sums that run over a whole picture: it cannot hold them; others as they are.

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return x if x.dtype == torch.float64 else x.float()


def affine(
    x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c2 1 1"], shift: Float[Tensor, "b c2 1 1"]
) -> Float[Tensor, "b c h w"]:
    """x * scale + shift in one pass and in the precision of x; each has all channels or one."""
    return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


def concatenated(*maps: Tensor) -> Float[Tensor, "b c h w"]:
    """Maps side by side in channels-last memory, which one map of one channel would make `torch.cat` forget."""
    if torch.onnx.is_in_onnx_export():  # other libraries would copy the maps for each permutation
        return torch.cat(maps, dim=1)
    return torch.cat([x.permute(0, 2, 3, 1) for x in maps], dim=-1).permute(0, 3, 1, 2)


def reduced(x: Float[Tensor, "b c h w"], longest: int) -> Float[Tensor, "b c h2 w2"]:
    """A copy with no side longer than `longest`, averaged over what it leaves out; `x` itself where it is small.

    >>> reduced(torch.zeros(1, 3, 200, 100), 50).shape
    torch.Size([1, 3, 50, 25])
    """
    height, width = x.shape[-2:]
    scale = longest / max(height, width)
    if scale >= 1:
        return x
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def enlarged_rows(
    x: Float[Tensor, "b c h w"], size: tuple[int, int], first: int, end: int
) -> Float[Tensor, "b c rows w2"]:
    """Rows first to end (exclusive) of x enlarged bilinearly to (height, width), without the cost of the others.

    >>> x = torch.rand(1, 1, 3, 4)
    >>> whole = F.interpolate(x, (7, 9), mode="bilinear")
    >>> torch.testing.assert_close(enlarged_rows(x, (7, 9), 2, 6), whole[..., 2:6, :])
    """
    height, width = size
    at = (torch.arange(first, end, device=x.device) + 0.5) * x.shape[-2] / height - 0.5
    at = at.clamp(0, x.shape[-2] - 1)
    above = at.floor().long()
    below = (above + 1).clamp(max=x.shape[-2] - 1)
    rows = torch.lerp(x[..., above, :], x[..., below, :], (at - above)[:, None].to(x.dtype))
    return F.interpolate(rows, (end - first, width), mode="bilinear")


Statistics = list[tuple[Tensor, ...]]
"""What a network computed over a whole picture, in the order in which it asked."""

_recording: ContextVar[Statistics | None] = ContextVar("recording", default=None)
_replaying: ContextVar[Iterator[tuple[Tensor, ...]] | None] = ContextVar("replaying", default=None)


def over_picture(compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Means and variances over the whole picture: computed, or, inside `replay`, those that were recorded.

    DCMPNet asks through this function, so that the tiles of a large picture share the statistics of the whole. (The
    others do not: their tiles see averages of their own, see `ModelInfo.tiling`.)
    """
    replaying, recording = _replaying.get(), _recording.get()
    if replaying is not None:
        return next(replaying)
    values = compute()
    if recording is not None:
        recording.append(values)
    return values


@contextmanager
def record() -> Iterator[Statistics]:
    """Keep all statistics of the forward pass inside, in this thread.

    >>> with record() as statistics:
    ...     mean = over_picture(lambda: (torch.ones(()),))
    >>> with replay(statistics):
    ...     over_picture(lambda: (torch.zeros(()),))
    (tensor(1.),)
    """
    statistics: Statistics = []
    token = _recording.set(statistics)
    try:
        yield statistics
    finally:
        _recording.reset(token)


@contextmanager
def replay(statistics: Statistics) -> Iterator[None]:
    """Let the forward pass inside use recorded statistics instead of its own."""
    token = _replaying.set(iter(statistics))
    try:
        yield
    finally:
        _replaying.reset(token)


def guided_filter(
    guide: Float[Tensor, "b 1 h w"], x: Float[Tensor, "b c h w"], *, radius: int, eps: float = 1e-3
) -> Float[Tensor, "b c h w"]:
    """x smoothed but for the edges of the guide: x ~ a * guide + b in each window, and the mean of all fits (He, Sun
    and Tang, ECCV 2010). Windows are cut off at the border.
    """

    def mean(y: Tensor) -> Tensor:
        rows = F.avg_pool2d(y, (2 * radius + 1, 1), 1, (radius, 0), count_include_pad=False)
        return F.avg_pool2d(rows, (1, 2 * radius + 1), 1, (0, radius), count_include_pad=False)

    mean_guide, mean_x = mean(guide), mean(x)
    a = (mean(guide * x) - mean_guide * mean_x) / (mean(guide * guide) - mean_guide**2 + eps)
    return mean(a) * guide + mean(mean_x - a * mean_guide)
