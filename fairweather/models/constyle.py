"""ConStyle: a contrastive encoder that tells a restoration network what ails the picture.

IRConStyle, Fan, Zhao and Chang, arXiv 2402.15784. This file holds the encoder (`ConStyle`), its training-time
form with momentum copy and queue (`ConStyleTrainer`), what a conditioned network has (`ConStyleRestorer`), and
the U-Net that any block type plugs into (`ConStyleUNet`, the paper's "general restoration network"). Backbones are
one file each and build on it.

Where we differ: nowhere in numbers; `normalize=True` offers unit-length vectors, which the release does not use.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.layers import pad_to_multiple


class Style(NamedTuple):
    """What the encoder says of a picture."""

    hidden: Float[Tensor, "b 128"]
    """v1, the first projection; only the style loss reads it."""
    vector: Float[Tensor, "b 128"]
    """v2, the style vector that gates the restorer's bottleneck."""
    features: tuple[Float[Tensor, "b c1 h2 w2"], Float[Tensor, "b c2 h4 w4"], Float[Tensor, "b c3 h8 w8"]]
    """f1, f2, f3 at 1/2, 1/4 and 1/8 of the picture (sides rounded up): 32, 64 and 128 channels in the paper."""


def _convs(*steps: tuple[int, int, int]) -> nn.Sequential:
    """3x3 convolutions (channels in, channels out, stride), each followed by LeakyReLU 0.1."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.LeakyReLU(0.1))
            for cin, cout, stride in steps
        )
    )


def _projection(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(cin, cout), nn.BatchNorm1d(cout), nn.GELU())


class ConStyle(nn.Module):
    """The encoder: one 128-vector and three feature maps (arXiv 2402.15784, 1.19 M parameters).

    Args:
        width: channels of the first convolutions; 16 in the paper, whose features have 2, 4 and 8 times as many.

    >>> style = ConStyle().eval()(torch.rand(1, 3, 75, 53))
    >>> style.vector.shape, style.features[2].shape
    (torch.Size([1, 128]), torch.Size([1, 128, 10, 7]))
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stage1 = _convs((3, w, 1), (w, w, 1), (w, 2 * w, 2))
        self.stage2 = _convs((2 * w, 2 * w, 1), (2 * w, 4 * w, 2))
        self.stage3 = _convs((4 * w, 8 * w, 1), (8 * w, 8 * w, 2))
        self.stage4 = _convs((8 * w, 16 * w, 1), (16 * w, 16 * w, 2))
        self.mlp1 = _projection(16 * w, 128)
        self.mlp2 = _projection(128, 128)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Style:
        f1: Tensor = self.stage1(x)  # b 2w h/2 w/2
        f2: Tensor = self.stage2(f1)  # b 4w h/4 w/4
        f3: Tensor = self.stage3(f2)  # b 8w h/8 w/8
        pooled = self.stage4(f3).mean(dim=(2, 3))  # b 16w
        v1: Tensor = self.mlp1(pooled)
        v2: Tensor = self.mlp2(v1)
        return Style(v1, v2, (f1, f2, f3))


class Contrast(NamedTuple):
    """One training call: what the losses of `losses/constyle.py` need."""

    query: Style
    key: Float[Tensor, "b 128"]
    """k2, the clean picture's vector by the momentum encoder; no gradient."""
    negatives: tuple[Float[Tensor, "b 128"], Float[Tensor, "b 128"]]
    """n0 (the queue's columns overwritten next) and n1 (those just overwritten); no gradient."""
    logits: Float[Tensor, "b n"]
    """(positive, negatives) / temperature; the right answer is always column 0."""


class ConStyleTrainer(nn.Module):
    """Query encoder, its momentum copy and the queue of earlier queries (section 3 of the paper, after MoCo).

    Args:
        queue_size: K, a multiple of every batch size used.
        momentum: m; each call moves the key encoder's parameters to m * key + (1 - m) * query.
        temperature: T of the logits.
        normalize: give query, key and queue vectors unit length before their products (the release does not).
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        *,
        queue_size: int = 65_760,
        momentum: float = 0.999,
        temperature: float = 0.07,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.momentum, self.temperature, self.normalize = momentum, temperature, normalize
        self.encoder_q = ConStyle()
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", torch.randn(128, queue_size))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))

    def forward(self, degraded: Float[Tensor, "b 3 h w"], clean: Float[Tensor, "b 3 h w"]) -> Contrast:
        """Raises ValueError when the batch does not divide the queue."""
        batch, size = len(degraded), self.queue.shape[1]
        if size % batch:
            raise ValueError(f"a batch of {batch} does not divide the queue of {size}; choose one that does")
        query: Style = self.encoder_q(degraded)
        with torch.no_grad():
            for k, q in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
                k.mul_(self.momentum).add_(q, alpha=1 - self.momentum)
            key: Tensor = self.encoder_k(clean).vector
        v, k2, columns = query.vector, key, self.queue.clone()  # the product's gradient reads the old queue
        if self.normalize:
            v, k2, columns = F.normalize(v, dim=1), F.normalize(k2, dim=1), F.normalize(columns, dim=0)
        positive = (v * k2).sum(dim=1, keepdim=True)  # b 1
        logits = torch.cat([positive, v @ columns], dim=1) / self.temperature  # b 1+K
        overwritten, following = self._push(query.vector.detach())
        return Contrast(query, key, (following, overwritten), logits)

    @torch.no_grad()
    def _push(self, vectors: Float[Tensor, "b 128"]) -> tuple[Tensor, Tensor]:
        """Put the query vectors (not the keys: the negatives are degraded pictures) into the queue."""
        batch, size = len(vectors), self.queue.shape[1]
        here = int(self.queue_ptr)
        after = (here + batch) % size
        overwritten = self.queue[:, here : here + batch].T.clone()
        following = self.queue[:, after : after + batch].T.clone()
        self.queue[:, here : here + batch] = vectors.T
        self.queue_ptr[0] = after
        return overwritten, following


class Down(nn.Module):
    """DC: halve the size, keep c channels, and join a ConStyle feature map of `width` channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], style: Float[Tensor, "b d h//2 w//2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        return torch.cat([F.pixel_unshuffle(self.conv(x), 2), style], dim=1)


class Up(nn.Module):
    """UC: double the size, join the skip, and mix to `cout` channels."""

    def __init__(self, channels: int, skip: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)
        self.mix = nn.Conv2d(channels + skip, cout, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h2 w2"]
    ) -> Float[Tensor, "b o h2 w2"]:
        out: Tensor = self.mix(torch.cat([F.pixel_shuffle(self.conv(x), 2), skip], dim=1))
        return out


class ConStyleRestorer(nn.Module):
    """What every network conditioned by ConStyle has: the encoder, the convolutions on its maps, and the gate.

    A network of this kind adds its own parts and `restore`.

    Args:
        width: d, channels at full size.
        activation: follows each 1x1 convolution on a feature map; called with its channels.
        multiple_of: what both sides are padded to.
    """

    def __init__(self, *, width: int, activation: Callable[[int], nn.Module], multiple_of: int) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width is {width}, expected a multiple of 4")
        self.multiple_of = multiple_of
        self.constyle = ConStyle()
        self.affine = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), activation(width)) for c in (32, 64, 128)
        )
        self.gate = nn.Linear(128, 4 * width)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore a picture of any size: padded by reflection to the multiple, cropped back."""
        padded = pad_to_multiple(x, self.multiple_of)
        return self.restore(padded, self.constyle(padded))[..., : x.shape[-2], : x.shape[-1]]

    def restore(self, x: Float[Tensor, "b 3 h w"], style: Style) -> Float[Tensor, "b 3 h w"]:
        """The network without its encoder; both sides of x must be multiples of `multiple_of`."""
        raise NotImplementedError

    def maps(self, style: Style) -> list[Tensor]:
        """a0, a1, a2: the feature maps at d channels, for `Down` at 1/2, 1/4 and 1/8."""
        return [affine(f) for affine, f in zip(self.affine, style.features, strict=True)]

    def gated(self, b: Float[Tensor, "b c h w"], style: Style) -> Float[Tensor, "b 2*c h w"]:
        """The bottleneck's 4d channels beside themselves gated by the vector."""
        return torch.cat([b, b * self.gate(style.vector)[:, :, None, None]], dim=1)


class ConStyleUNet(ConStyleRestorer):
    """The general restoration network: a U-Net of any blocks, conditioned by ConStyle (section 3 of the paper).

    Feature maps join the encoder at 1/2, 1/4 and 1/8; the vector gates the bottleneck.

    Args:
        width: d, channels at full size.
        stage: builds a stack of blocks: stage(number of blocks, channels, index of the stage from 0).
        num_blocks: blocks of the seven stages encoder 1 to 3, bottom, decoder 3 to 1.
        entry: 3 -> d channels. exit: 2d -> 3 channels.
        activation: follows each 1x1 convolution on a feature map; called with its channels.
        multiple_of: what both sides are padded to; 8, and more where blocks need it.
    """

    def __init__(
        self,
        *,
        width: int,
        stage: Callable[[int, int, int], nn.Module],
        num_blocks: tuple[int, ...],
        entry: nn.Module,
        exit: nn.Module,
        activation: Callable[[int], nn.Module],
        multiple_of: int = 8,
    ) -> None:
        super().__init__(width=width, activation=activation, multiple_of=multiple_of)
        if len(num_blocks) != 7:
            raise ValueError(f"num_blocks has {len(num_blocks)} numbers, expected 7, one for each stage")
        d = width
        widths = (d, 2 * d, 3 * d, 4 * d, 4 * d, 3 * d, 2 * d)
        self.entry, self.exit = entry, exit
        stages = [stage(n, c, i) for i, (n, c) in enumerate(zip(num_blocks, widths, strict=True))]
        self.encoder1, self.encoder2, self.encoder3, self.bottom = stages[:4]
        self.decoder3, self.decoder2, self.decoder1 = stages[4:]
        self.down1, self.down2, self.down3 = Down(d), Down(2 * d), Down(3 * d)
        self.fusion = nn.Conv2d(8 * d, 3 * d, 1, bias=False)
        self.up3 = Up(3 * d, 3 * d, 4 * d)
        self.up2 = Up(4 * d, 2 * d, 3 * d)
        self.up1 = Up(3 * d, d, 2 * d)

    def restore(self, x: Float[Tensor, "b 3 h w"], style: Style) -> Float[Tensor, "b 3 h w"]:
        a0, a1, a2 = self.maps(style)
        e1 = self.encoder1(self.entry(x))  # d
        e2 = self.encoder2(self.down1(e1, a0))  # 2d at 1/2
        e3 = self.encoder3(self.down2(e2, a1))  # 3d at 1/4
        b = self.bottom(self.down3(e3, a2))  # 4d at 1/8
        y = self.fusion(self.gated(b, style))  # 3d
        y = self.decoder3(self.up3(y, e3))  # 4d at 1/4
        y = self.decoder2(self.up2(y, e2))  # 3d at 1/2
        y = self.decoder1(self.up1(y, e1))  # 2d
        out: Tensor = self.exit(y) + x
        return out


# Published names -------------------------------------------------------------------------------------------------

_PUBLISHED = {
    "ConStyle.encoder_q.": "constyle.",
    "AffineTransform": "affine.",
    "mlp.0.": "gate.",
    "Preprocess_Module.": "entry.",
    "Finetune_Module.": "exit.",
    "Process_Module_l": "encoder",
    "Process_Module_r": "decoder",
    "Process_Module_bottom.": "bottom.",
    "local_fusion.": "fusion.",
}
_TRAINING_ONLY = ("ConStyle.encoder_k.", "ConStyle.queue")


def published_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle alone (`encoder_q.*`, with or without its training-time parts) by our names."""
    return {k.removeprefix("encoder_q."): v for k, v in state.items() if k.startswith("encoder_q.")}


def published_unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ConStyle + backbone checkpoint by our names; the momentum encoder and the queue are dropped."""
    return {_rename(k): v for k, v in state.items() if not k.startswith(_TRAINING_ONLY)}


def _rename(name: str) -> str:
    for published, ours in _PUBLISHED.items():
        if name.startswith(published):
            return ours + name.removeprefix(published)
    for published, ours in (("DC", "down"), ("UC", "up")):
        if name.startswith(published):
            number, rest = name[2], name[4:]
            inner = {
                "down.0.weight": "conv.weight",
                "up.0.weight": "conv.weight",
                "down.weight": "mix.weight",
            }
            return f"{ours}{number}.{inner.get(rest, rest)}"
    return name
