"""LEGM, the blocks of DCMPNet's encoder and decoder: transformer blocks with revised layer norm.

They are from DehazeFormer (Song et al., arXiv 2204.03883, MIT licence). Each comes with its inference form, in which
the norm is part of the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import bias_of, convolution, relus_in_place, set_bias, stacked
from fairweather.models.layers import Depthwise, affine, at_least_float32, over_picture


class RLN(nn.Module):
    """Revised layer norm: over channels and positions together, and what was taken away is handed on.

    normalised = (x - mean) / sigma * weight + bias, rescale = W1 sigma + b1, rebias = W2 mean + b2, with
    sigma = sqrt(var + eps) of the whole picture (DehazeFormer, section 3.2).
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.rescale = nn.Conv2d(1, channels, 1)
        self.rebias = nn.Conv2d(1, channels, 1)
        for conv, start in ((self.rescale, 1.0), (self.rebias, 0.0)):
            nn.init.trunc_normal_(conv.weight, std=0.02)
            nn.init.constant_(conv.bias, start)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c 1 1"], Float[Tensor, "b c 1 1"]]:
        """The normalised map, its rescale and its rebias."""
        mean, sigma = over_picture(lambda: self._statistics(x))
        scale = self.weight / sigma  # b c 1 1
        normalised = affine(x, scale, self.bias - mean * scale)
        return normalised, self.rescale(sigma), self.rebias(mean)

    def _statistics(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(at_least_float32(x), dim=(1, 2, 3), keepdim=True, correction=0)
        return mean, (variance + self.eps).sqrt()


class PositionBias(nn.Module):
    """The bias of attention between two places of a window, a small function of their log-spaced offset."""

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, heads))
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        places = torch.stack((rows.flatten(), columns.flatten()), dim=1).float()
        offset = places[:, None] - places[None, :]  # n n 2
        self.register_buffer("offset", offset.sign() * offset.abs().log1p(), persistent=False)

    def forward(self) -> Float[Tensor, "heads n n"]:
        bias: Tensor = self.mlp(self.offset)
        return bias.permute(2, 0, 1)

    def inference_form(self) -> nn.Module:
        """The offsets never change, so neither does the bias."""
        dtype = self.offset.dtype
        return _Table(self.double()().to(dtype).contiguous())


class _Table(nn.Module):
    """Values that never change, as what has computed them."""

    values: Tensor

    def __init__(self, values: Float[Tensor, "*shape"]) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> Tensor:
        return self.values


class WindowAttention(nn.Module):
    """Attention inside windows, shifted by padding (mirrored and not rolled, so no mask is needed).

    Args:
        heads: must divide the channels. window: side of a window. shift: what is added on the left and top.
    """

    def __init__(self, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.position_bias = PositionBias(heads, window)

    def forward(self, qkv: Float[Tensor, "b c3 h w"]) -> Float[Tensor, "b c3//3 h w"]:
        """Queries, keys and values, stacked in this order, to their attention."""
        return self.joined(self.attend(self.windows(qkv)), qkv)

    def windows(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "windows n c"]:
        """A map, mirrored at its sides, cut into windows of n places."""
        (b, c, h, w), s, k = x.shape, self.shift, self.window
        rows, columns = self._number(h), self._number(w)
        x = F.pad(x, (s, columns * k - s - w, s, rows * k - s - h), mode="reflect")
        parts = x.permute(0, 2, 3, 1).reshape(b, rows, k, columns, k, c).transpose(2, 3)
        return parts.reshape(b * rows * columns, k * k, c)

    def joined(
        self, windows: Float[Tensor, "windows n c"], like: Float[Tensor, "b c2 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The windows put together, in channels-last memory, as the map was that they were cut from."""
        (b, _, h, w), s, k, c = like.shape, self.shift, self.window, windows.shape[-1]
        rows, columns = self._number(h), self._number(w)
        parts = windows.view(b, rows, columns, k, k, c).transpose(2, 3)
        x = parts.reshape(b, rows * k, columns * k, c)[:, s : s + h, s : s + w]
        return x.permute(0, 3, 1, 2)

    def _number(self, side: int) -> int:
        """Windows along a side."""
        return (side + self.shift + self.window - 1) // self.window

    def attend(self, tokens: Float[Tensor, "windows n c3"]) -> Float[Tensor, "windows n c3//3"]:
        """Attention between the n places of each window."""
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in tokens.chunk(3, dim=2))
        bias: Tensor = self.position_bias()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))  # windows heads n d
        return out.transpose(1, 2).flatten(2)


class LEGMBlock(nn.Module):
    """One block of LEGM: local features by a depthwise convolution, global ones by window attention.

    Args:
        heads: 0 for a block without attention, which has no norm either.
        shift: move the windows by half their side.
        ratio: hidden channels of the MLP, times the channels.
    """

    def __init__(self, channels: int, *, heads: int, window: int, shift: bool, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.value = nn.Conv2d(channels, channels, 1)
        self.local = Depthwise(channels, 5, bias=True, padding_mode="reflect")
        self.norm = RLN(channels) if heads else None
        self.query_key = nn.Conv2d(channels, 2 * channels, 1) if heads else None
        self.attention = WindowAttention(heads, window, window // 2 if shift else 0) if heads else None
        self.proj = nn.Conv2d(channels, channels, 1)
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if self.norm is None or self.query_key is None or self.attention is None:
            y: Tensor = self.proj(self.local(self.value(x)))
        else:
            normalised, rescale, rebias = self.norm(x)
            value: Tensor = self.value(normalised)
            qkv = torch.cat((self.query_key(normalised), value), dim=1)
            y = affine(self.proj(self.local(value) + self.attention(qkv)), rescale, rebias)
        x = x + y
        out: Tensor = x + self.mlp(x)
        return out

    def inference_form(self) -> nn.Module:
        """The bias of the values passes the mirrored depthwise convolution times the sum of its kernel: both biases
        go into the projection's. With attention the norm goes there too.
        """
        relus_in_place(self.mlp)
        if self.attention is not None:
            return _AttentionBlock(self)
        lost = bias_of(self.value) * self.local.weight.double().sum((1, 2, 3)) + bias_of(self.local)
        set_bias(self.proj, bias_of(self.proj) + self.proj.weight.double().flatten(1) @ lost)
        self.value.bias = self.local.bias = None
        return self


class _AttentionBlock(nn.Module):
    """The inference form of a block with attention.

    The norm is one scale and one shift for each picture, so both go into the weights of the layers that read it, as
    rescale and rebias go into the projection's. Only the mean and sigma of the map itself are computed.
    """

    weight: Tensor
    start: Tensor
    slope: Tensor
    proj: Tensor
    proj_start: Tensor
    proj_slope: Tensor
    rescale_start: Tensor
    rescale_slope: Tensor
    rebias_start: Tensor
    rebias_slope: Tensor

    def __init__(self, block: LEGMBlock) -> None:
        super().__init__()
        assert block.norm is not None
        assert block.query_key is not None
        assert block.attention is not None
        norm, c = block.norm, block.value.in_channels
        self.eps, self.attention, self.mlp = norm.eps, block.attention, block.mlp
        qkv = stacked(block.query_key, block.value)
        weight = qkv.weight.double().flatten(1)
        start = bias_of(qkv) + weight @ norm.bias.double().flatten()
        weight = weight * norm.weight.double().flatten()
        slope = -weight.sum(1)  # of the shift, by mean / sigma
        self.value = convolution(weight[2 * c :, :, None, None], None, like=block.value)
        self.local = convolution(block.local.weight.double(), None, like=block.local)
        kernel = block.local.weight.double().sum((1, 2, 3))  # by which it multiplies the values' shift
        proj = block.proj.weight.double().flatten(1)
        constants = {
            "weight": weight.T,
            "start": start,
            "slope": slope,
            "proj": proj.T,
            "proj_start": proj @ (kernel * start[2 * c :] + bias_of(block.local)) + bias_of(block.proj),
            "proj_slope": proj @ (kernel * slope[2 * c :]),
            "rescale_start": bias_of(norm.rescale),
            "rescale_slope": norm.rescale.weight.flatten(),
            "rebias_start": bias_of(norm.rebias),
            "rebias_slope": norm.rebias.weight.flatten(),
        }
        for name, values in constants.items():
            self.register_buffer(name, values.to(block.proj.weight.dtype).contiguous())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, c, h, w = x.shape
        mean, sigma = (t.view(b, 1, 1) for t in over_picture(lambda: _moments(x, self.eps)))
        shift = torch.addcmul(self.start, self.slope, mean / sigma)  # b 1 3c
        rescale = torch.addcmul(self.rescale_start, self.rescale_slope, sigma)  # b 1 c
        rebias = torch.addcmul(self.rebias_start, self.rebias_slope, mean)
        proj_shift = torch.addcmul(
            rebias, torch.addcmul(self.proj_start, self.proj_slope, mean / sigma), rescale
        )
        windows = self.attention.windows(x)
        number, n, _ = windows.shape
        qkv = torch.baddbmm(shift, windows.view(b, number * n // b, c), self.weight / sigma)
        attended = self.attention.joined(self.attention.attend(qkv.view(number, n, 3 * c)), x)
        local: Tensor = self.local(self.value(x))
        # With channels last, as both lie in memory: other libraries would copy one to the other's order.
        attended, local = (t.permute(0, 2, 3, 1) for t in (attended, local))
        z = torch.addcmul(attended, local, (1 / sigma)[..., None].to(local.dtype))
        y = torch.baddbmm(proj_shift, z.flatten(1, 2), self.proj * rescale)
        x = x + y.view(b, h, w, c).permute(0, 3, 1, 2)
        out: Tensor = x + self.mlp(x)
        return out


def _moments(x: Float[Tensor, "b c h w"], eps: float) -> tuple[Tensor, Tensor]:
    """Mean and sigma of each picture, in two passes that are faster than one by Welford."""
    x = at_least_float32(x)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean, ((x - mean).square_().mean(dim=(1, 2, 3), keepdim=True) + eps).sqrt()


class LEGM(nn.Module):
    """Local feature-embedded global feature extraction: a stack of blocks, the last of them with attention.

    Maps must have 7 or more places a side for windows of 8, which are filled up by mirroring.

    Args:
        channels: of the map, in and out.
        depth: number of blocks.
        attention: how many of them, counted from the last, have attention.
        heads: of the attention; must divide the channels.
        ratio: hidden channels of the MLPs, times the channels.
        gain: initial scale of the residual branches; (8 * all blocks of the network) ** -0.25 in DCMPNet.

    Raises:
        ValueError: for attention that is impossible, and for a map that is too small for its windows.

    >>> LEGM(24, depth=2, attention=1, heads=2)(torch.rand(1, 24, 9, 14)).shape
    torch.Size([1, 24, 9, 14])
    """

    def __init__(
        self,
        channels: int,
        *,
        depth: int,
        attention: int,
        heads: int,
        ratio: float = 2.0,
        window: int = 8,
        gain: float = 0.25,
    ) -> None:
        super().__init__()
        fits = heads > 0 and channels % heads == 0
        if not 0 <= attention <= depth or (attention and not fits) or channels * ratio < 1:
            raise ValueError(
                f"LEGM of {channels} channels: attention of {heads} heads in {attention} of {depth} blocks and MLPs of "
                f"ratio {ratio:g} are impossible"
            )
        self.blocks = nn.Sequential(
            *(
                LEGMBlock(
                    channels,
                    heads=heads if i >= depth - attention else 0,
                    window=window,
                    shift=i % 2 == 1,
                    ratio=ratio,
                )
                for i in range(depth)
            )
        )
        shifted = any(i % 2 == 1 for i in range(depth - attention, depth))
        # Mirroring needs more places than it adds: to two rows of windows that begin half a window outside, to one row
        # of windows, or 2 to each side for the depthwise convolution.
        self.least = 3 * window // 4 + 1 if shifted else window // 2 + 1 if attention else 3
        for block in self.blocks:
            assert isinstance(block, LEGMBlock)
            for conv in (block.value, block.local, block.proj, block.mlp[0], block.mlp[2]):
                _start(conv, gain)
            if block.query_key is not None:
                _start(block.query_key, 1.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        if min(height, width) < self.least:
            raise ValueError(
                f"a map of {height}x{width} is too small for LEGM; give it {self.least} or more a side"
            )
        y: Tensor = self.blocks(x)
        return y


def _start(conv: nn.Module, gain: float) -> None:
    """Truncated normal of standard deviation gain * sqrt(2 / (fan in + fan out)), bias 0."""
    assert isinstance(conv, nn.Conv2d)
    area = conv.kernel_size[0] * conv.kernel_size[1]
    fans = area * (conv.in_channels // conv.groups) + area * conv.out_channels
    nn.init.trunc_normal_(conv.weight, std=gain * (2 / fans) ** 0.5)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
