"""CleanNet, a transformer that removes rain from one picture; the first half of NiteDR.

NiteDR: "Nighttime Image De-Raining with Cross-View Sensor Cooperative Learning for Dynamic Driving Scenes", IEEE TMM
26 (2024), arXiv 2402.18172. Blocks: TSSA (sparse attention across channels), MDFFN (feed-forward at two scales) and
AgMoE (a gated mixture of experts). Its modules, sizes and parameter names are those of DRSformer (Chen et al., CVPR
2023: TKSA, MSFN, MEFC), so checkpoints of DRSformer that have experts load as well.

Where we differ: nowhere in numbers. Where figure and released code disagree we follow the code: all experts are
weighed and none is left out, each row of attention is selected at four depths, and MDFFN has one entry.
`cleannet_small()` is ours, sized for a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.folding import columns, convolution, dealt_out, merged_chain, part, rows, shifted
from fairweather.models.layers import Depthwise, depthwise_convolution
from fairweather.models.restormer import (
    MDTA,
    ChannelUNet,
    FeedForward,
    TransformerBlock,
    check_width,
    one_for_each_size,
    published_restormer,
)

SHARES = ((1, 2), (2, 3), (3, 4), (4, 5))
"""Of the entries in a row of attention: how many each of the four softmaxes keeps, as fractions."""
EXPERTS = 8


def sparse_attention(
    logits: Float[Tensor, "b heads i j"], mix: Float[Tensor, " 4"]
) -> Float[Tensor, "b heads i j"]:
    """Four softmaxes of every row, over its largest 1/2, 2/3, 3/4 and 4/5 entries, added up with the weights `mix`.

    How many entries are kept is rounded down; what is not kept is 0.

    >>> sparse_attention(torch.tensor([[[[1.0, 5.0, 0.0, 5.0]]]]), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([[[[0.0000, 0.5000, 0.0000, 0.5000]]]])
    """
    size = int(logits.shape[-1])
    kept = logits.new_tensor([[i < size * above // below for i in range(size)] for above, below in SHARES])
    largest, order = logits.sort(dim=-1, descending=True)
    powers = (largest - largest[..., :1]).exp()
    sums = (powers[..., None, :] * kept).sum(dim=-1)  # of each softmax; the first power is 1
    shares = mix / sums.clamp_min(1)  # less than 1 where none is kept
    mixed = powers * (shares[..., None] * kept).sum(dim=-2)
    return torch.zeros_like(mixed).scatter(-1, order, mixed)


class TSSA(MDTA):
    """Attention across channels, over the whole picture, in which a channel attends to its nearest others alone.

    Restormer's, but for `sparse_attention` in place of the softmax. The four mixtures are of matrices as small as the
    channels, so they are added up before they meet the picture.

    Args:
        channels: c, two or more for each head.
        num_heads: groups of channels that attend among themselves.

    Raises:
        ValueError: if channels is no multiple of num_heads, or a head would have one channel alone.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        if num_heads < 1 or channels < 2 * num_heads or channels % num_heads:
            raise ValueError(
                f"{channels} channels cannot be shared by {num_heads} heads; expected a multiple, at least twice as "
                "many"
            )
        super().__init__(channels, num_heads)
        self.mix = nn.Parameter(torch.full((len(SHARES),), 0.2))

    def attention(self, logits: Float[Tensor, "b heads i j"]) -> Float[Tensor, "b heads i j"]:
        return sparse_attention(logits, self.mix)


def paired_convolution(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c//2 2 k k"]
) -> Float[Tensor, "b c//2 h w"]:
    """A convolution whose channel i is made of channels 2i and 2i + 1, padded with zeros.

    >>> paired_convolution(torch.tensor([1.0, 2, 4, 8]).view(1, 4, 1, 1), torch.ones(2, 2, 3, 3)).flatten()
    tensor([ 3., 12.])
    """
    # Depthwise, then added: CPUs take three to thirty times as long for the grouped convolution that this is.
    y = depthwise_convolution(x, weight.flatten(0, 1)[:, None], padding=weight.shape[-1] // 2)
    return y[:, ::2] + y[:, 1::2]


class MDFFN(FeedForward):
    """Feed-forward network with a 3x3 and a 5x5 branch that meet twice: in pairs of channels, then at the exit.

    A pair is two neighbours of the joined halves, so it comes from one branch: half of the pairs are of the 3x3
    branch, half of the 5x5 branch, and one is mixed where the hidden channels are odd in number.

    Args:
        channels: c.
        expansion: the hidden channels of each half are int(expansion * c).
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        f = int(expansion * channels)
        if f < 1:
            raise ValueError(
                f"expansion is {expansion}, which leaves none of {channels} channels; expected more"
            )

        def pairs(k: int) -> nn.Conv2d:
            return nn.Conv2d(2 * f, f, k, padding=k // 2, groups=f, bias=False)

        self.project_in = nn.Conv2d(channels, 2 * f, 1, bias=False)
        self.dwconv3x3, self.dwconv5x5 = Depthwise(2 * f, 3), Depthwise(2 * f, 5)
        self.dwconv3x3_1, self.dwconv5x5_1 = pairs(3), pairs(5)
        self.project_out = nn.Conv2d(2 * f, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y: Tensor = self.project_in(x)
        s1, s2 = F.relu(self.dwconv3x3(y), inplace=True).chunk(2, dim=1)
        l1, l2 = F.relu(self.dwconv5x5(y), inplace=True).chunk(2, dim=1)
        del y  # these maps are the largest: freed early, they take a third off the network's peak memory
        first, second = torch.cat((s1, l1), dim=1), torch.cat((s2, l2), dim=1)
        del s1, s2, l1, l2
        y3 = F.relu(paired_convolution(first, self.dwconv3x3_1.weight), inplace=True)
        y5 = F.relu(paired_convolution(second, self.dwconv5x5_1.weight), inplace=True)
        out: Tensor = self.project_out(torch.cat((y3, y5), dim=1))
        return out

    def in_parts(self) -> Iterable[nn.Module]:
        return (PairedHalf(self, half) for half in (0, 1))


class SparseBlock(TransformerBlock):
    """Restormer's block, with TSSA and MDFFN."""

    def __init__(self, channels: int, num_heads: int, expansion: float) -> None:
        super().__init__(channels, attn=TSSA(channels, num_heads), ffn=MDFFN(channels, expansion))


def number_of_maps(hidden: int) -> int:
    """Into how many maps hidden channels are dealt: 8, 4 or 2, with 32 channels or more, and no more padding than in 2.

    Fewer where there are many channels: there are few pixels then, so maps are small as they are. For a CPU's caches;
    other devices would start more kernels for nothing.

    >>> [number_of_maps(hidden) for hidden in (85, 127, 255, 510, 1021)]
    [2, 4, 8, 4, 2]
    """
    padded = -(-hidden // 32) * 32
    most = min(padded // 32, 2048 // padded)
    return next((maps for maps in (8, 4) if maps <= most and padded % (16 * maps) == 0), 2)


class PairedHalf(nn.Module):
    """One half of the hidden channels of an MDFFN, f of them, from the entry to the exit.

    They are dealt out to maps like cards, so neighbours are in neighbouring maps at the same place, but from the last
    map to the first: there the next one is a place further.

    The two branches make 2f answers, the 3x3 branch's f before the 5x5 branch's, and pairs are the answers 2i and
    2i + 1. Where f is even, both branches pair the same neighbours. Where it is odd, the 5x5 branch pairs the others,
    and the 3x3 branch's last answer belongs to the 5x5 branch's first: its kernel goes there, with a border of 0.
    """

    def __init__(self, plain: MDFFN, half: int) -> None:
        super().__init__()
        f = plain.project_in.out_channels // 2
        of_half = torch.arange(half * f, half * f + f)
        near, far = (rows(conv, of_half) for conv in (plain.dwconv3x3, plain.dwconv5x5))
        bordered = torch.cat((F.pad(near.weight, (1, 1, 1, 1)), far.weight))
        both = convolution(bordered.double(), None, like=far, groups=2 * f)
        pairs = (plain.dwconv3x3_1, plain.dwconv5x5_1)[half].weight.double().flatten(0, 1)[:, None]
        unpaired = convolution(pairs, None, like=(near, far)[half], groups=2 * f)

        maps = number_of_maps(f) if plain.project_in.weight.device.type == "cpu" else 2
        hidden = dealt_out(f, maps)
        if f % 2:
            hidden[-1, -1] = f - 1  # once more: a place further, it is beside channel 0
        self.entries = nn.ModuleList(rows(plain.project_in, shifted(of_map, half * f)) for of_map in hidden)
        self.meetings = nn.ModuleList()
        for number in range(maps):
            met, is_last = nn.ModuleList(), number == maps - 1
            for conv, first_answer in ((near, 0), (both, f)):
                left = shifted(hidden[number], first_answer)
                right = shifted(hidden[(number + 1) % maps], first_answer)
                if is_last:
                    left = torch.cat((torch.tensor([f - 1]), left[:-1]))
                is_pair = (left % 2 == 0) & (right == left + 1)
                if is_pair.any():
                    first, second = (
                        nn.Sequential(rows(conv, answers), nn.ReLU(inplace=True), rows(unpaired, answers))
                        for answers in (torch.where(is_pair, side, -1) for side in (left, right))
                    )
                    leave = columns(plain.project_out, torch.where(is_pair, half * f + left // 2, -1))
                    met.append(Meeting(first, second, leave, is_last))
            self.meetings.append(met)

    def forward(
        self, x: Float[Tensor, "b c h w"], onto: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """What the half gives to the sum, added to `onto` in place."""
        enter, *others = self.entries
        here = first = enter(x)
        for entry, meetings in zip([*others, None], self.meetings, strict=True):
            there = entry(x) if entry else first
            for meeting in cast(nn.ModuleList, meetings):
                onto = meeting(here, there, onto)
            here = there  # no more than three maps are alive
        return onto


class Meeting(nn.Module):
    """Two maps of hidden channels, from their depthwise convolutions to the exit; those at the same place are pairs.

    Args:
        first, second: what happens to each before they are added.
        leave: what their sum gives to the block's.
        is_moved: whether the first map's channels go a place further, and its last one to the front.
    """

    def __init__(self, first: nn.Module, second: nn.Module, leave: nn.Conv2d, is_moved: bool) -> None:
        super().__init__()
        self.first, self.second, self.leave, self.is_moved = first, second, leave, is_moved

    def forward(
        self,
        x: Float[Tensor, "b places h w"],
        y: Float[Tensor, "b places h w"],
        onto: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """`onto`, with what the pairs give added in place."""
        if self.is_moved:
            x = torch.cat((x[:, -1:], x[:, :-1]), dim=1)
        return onto.add_(self.leave(self.first(x).add_(self.second(y)).relu_()))


def experts(channels: int) -> list[nn.Module]:
    """Eight ways to look at a map: separable with k = 1, 3, 5, 7, dilated with k = 3, 5, 7, and the 3x3 mean."""
    c = channels

    def point() -> nn.Conv2d:
        return nn.Conv2d(c, c, 1, bias=False)

    return [
        *(
            nn.Sequential(Depthwise(c, k), point(), nn.ReLU(inplace=True), Depthwise(c, k), point())
            for k in (1, 3, 5, 7)
        ),
        *(nn.Sequential(Depthwise(c, k, dilation=2), point()) for k in (3, 5, 7)),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    ]


class Mixture(nn.Module):
    """One step of AgMoE: the experts' answers, weighed and merged by a 1x1 convolution, added to what they saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts(channels))
        self.merge = nn.Conv2d(EXPERTS * channels, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"], gate: Float[Tensor, "b 8"]) -> Float[Tensor, "b c h w"]:
        """The gate has one weight for each expert."""
        # Merged one by one: the experts' answers side by side would be eight maps.
        merged = torch.zeros_like(x)
        weights = self.merge.weight.chunk(EXPERTS, dim=1)
        for expert, weight, share in zip(self.experts, weights, gate.unbind(1), strict=True):
            merged.addcmul_(F.conv2d(expert(x), weight), share[:, None, None, None])
        return F.relu(F.relu(merged) + x)

    def inference_form(self) -> MergedMixture:
        return MergedMixture(self)


class MergedMixture(nn.Module):
    """The inference form of Mixture: 1x1 convolutions in a row, an expert's last and its part of the merge, are one."""

    def __init__(self, plain: Mixture) -> None:
        super().__init__()
        c = plain.merge.out_channels
        self.experts = nn.ModuleList(
            merged_chain(
                *(expert if isinstance(expert, nn.Sequential) else [expert]),
                part(plain.merge, i * c, (i + 1) * c),
            )
            for i, expert in enumerate(plain.experts)
        )

    def forward(self, x: Float[Tensor, "b c h w"], gate: Float[Tensor, "b 8"]) -> Float[Tensor, "b c h w"]:
        y = torch.zeros_like(x)
        for expert, share in zip(self.experts, gate.unbind(1), strict=True):
            y = y.addcmul_(expert(x), share[:, None, None, None])
        return F.relu(F.relu(y) + x)


class AgMoE(nn.Module):
    """Mixture of experts in several steps; what the whole picture looks like decides how much each expert counts.

    It ends in a ReLU. If that is 0 everywhere in the last AgMoE, CleanNet returns its input, and training does not
    recover: users of DRSformer met this with small batches at its learning rate of 3e-4.
    """

    def __init__(self, channels: int, *, num_steps: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, 64), nn.ReLU(inplace=True), nn.Linear(64, num_steps * EXPERTS)
        )
        self.entry = nn.Conv2d(channels, channels, 1, bias=False)
        self.steps = nn.ModuleList(Mixture(channels) for _ in range(num_steps))

    def gates(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b steps 8"]:
        """The weight of each expert in each step; those of a step add up to 1."""
        scores: Tensor = self.gate(x.mean(dim=(2, 3)))
        return scores.view(x.shape[0], -1, EXPERTS).softmax(dim=-1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y: Tensor = F.relu(self.entry(x))
        for step, gate in zip(self.steps, self.gates(x).to(y.dtype).unbind(1), strict=True):
            y = step(y, gate)
        return y


class CleanNet(ChannelUNet):
    """Restormer's U-Net, with sparse attention and feed-forward at two scales, between two AgMoEs.

    Args:
        width: channels at full size, an even number; they double with each of the three steps down.
        num_blocks: blocks at 1/1, 1/2, 1/4 and 1/8; the decoder has as many as the encoder.
        num_heads: heads at 1/1, 1/2, 1/4 and 1/8.
        num_steps: of each AgMoE.
        expansion: of the channels, in each half of the feed-forward.

    >>> net = CleanNet(width=16, num_blocks=(1, 1, 1, 1), num_steps=1)
    >>> net(torch.rand(1, 3, 7, 3)).shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(
        self,
        *,
        width: int,
        num_blocks: tuple[int, ...],
        num_heads: tuple[int, ...] = (1, 2, 4, 8),
        num_steps: int = 4,
        expansion: float = 2.66,
    ) -> None:
        one_for_each_size("num_blocks", num_blocks)
        one_for_each_size("num_heads", num_heads)
        if min(num_blocks) < 0 or num_steps < 1:
            raise ValueError(
                f"num_blocks is {num_blocks} and num_steps {num_steps}; expected 0 or more blocks, 1 or more steps"
            )
        check_width(width)

        def stage(size: int, channels: int) -> nn.Sequential:
            blocks = (SparseBlock(channels, num_heads[size], expansion) for _ in range(num_blocks[size]))
            return nn.Sequential(*blocks)

        super().__init__(
            width=width,
            stage=stage,
            refinement=AgMoE(2 * width, num_steps=num_steps),
            encoder0=AgMoE(width, num_steps=num_steps),
        )


# Variants --------------------------------------------------------------------------------------------------------


cleannet = partial(CleanNet, width=48, num_blocks=(4, 6, 6, 8))
"""CleanNet as published (33.7 M parameters)."""

cleannet_small = partial(CleanNet, width=16, num_blocks=(0, 1, 3, 3), num_steps=1)
"""Ours, for a CPU (1.9 M parameters).

No block before the first step down, and one step of experts: at full size a block costs most and sees least.
"""


# Published names -------------------------------------------------------------------------------------------------

_AGMOE = {
    r"\.layers\.0\.ca_fc\.": ".gate.",
    r"\.layers\.1\.preprocess\.op\.0\.": ".entry.",
    r"\.layers\.1\._ops\.(\d)\._ops\.(\d)\.op\.": r".steps.\1.experts.\2.",
    r"\.layers\.1\._ops\.(\d)\._out\.0\.": r".steps.\1.merge.",
}


def published_cleannet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published CleanNet, or a DRSformer with experts, by our names."""
    ours: dict[str, Tensor] = {}
    for name, value in published_restormer(state).items():  # the U-Net's names are Restormer's
        for pattern, own in _AGMOE.items():
            name = re.sub(pattern, own, name)
        ours[name] = value
    for first in [name for name in ours if name.endswith(".attn.attn1")]:
        block = first.removesuffix("attn1")
        ours[f"{block}mix"] = torch.cat([ours.pop(f"{block}attn{i}") for i in range(1, 5)])
    return ours
