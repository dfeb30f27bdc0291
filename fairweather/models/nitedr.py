"""NiteDR: CleanNet and FusionNet in sequence, from a rainy picture and an infrared one to three results.

"Nighttime Image De-Raining with Cross-View Sensor Cooperative Learning for Dynamic Driving Scenes", IEEE TMM 26
(2024), arXiv 2402.18172.

Where we differ: see `fusionnet.py`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.cleannet import CleanNet, cleannet_small, published_cleannet
from fairweather.models.fusionnet import FusionNet, published_fusionnet


class NightResult(NamedTuple):
    """What NiteDR makes of a rainy picture and an infrared one."""

    clean: Float[Tensor, "b 3 h w"]
    """The visible picture without rain, RGB, nominally in [0, 1] but not clamped."""
    fused: Float[Tensor, "b 3 h w"]
    """The clean picture with the luma of both, RGB, not clamped either."""
    refined: Float[Tensor, "b 3 h w"]
    """The fused picture brightened, RGB in [0, 1]."""


class NiteDR(nn.Module):
    """A deraining network and a fusion network, trained apart, one after the other.

    >>> net = nitedr_small()
    >>> net(torch.rand(1, 3, 7, 3), torch.rand(1, 1, 7, 3)).refined.shape
    torch.Size([1, 3, 7, 3])
    """

    def __init__(self, cleannet: CleanNet, fusionnet: FusionNet) -> None:
        super().__init__()
        self.multiple_of = cleannet.multiple_of
        self.cleannet, self.fusionnet = cleannet, fusionnet

    def forward(self, rainy: Float[Tensor, "b 3 h w"], infrared: Float[Tensor, "b 1 h w"]) -> NightResult:
        """Two aligned pictures in [0, 1] and of one size, any size."""
        clean: Tensor = self.cleannet(rainy)
        return NightResult(clean, *self.fusionnet(clean.clamp(0, 1), infrared))


# Variants --------------------------------------------------------------------------------------------------------


def nitedr(
    *,
    width: int = 48,
    num_blocks: tuple[int, ...] = (4, 6, 6, 8),
    num_heads: tuple[int, ...] = (1, 2, 4, 8),
    num_steps: int = 4,
    expansion: float = 2.66,
    fusion_width: int = 44,
    num_layers: int = 5,
    exit_widths: tuple[int, ...] = (128, 64, 32),
    adjust: bool = True,
    official: bool = False,
) -> NiteDR:
    """NiteDR as published (34.3 M parameters).

    Args:
        width, num_blocks, num_heads, num_steps, expansion: as in `CleanNet`.
        fusion_width: `width` of `FusionNet`. num_layers, exit_widths, adjust, official: as there.
    """
    return NiteDR(
        CleanNet(
            width=width,
            num_blocks=num_blocks,
            num_heads=num_heads,
            num_steps=num_steps,
            expansion=expansion,
        ),
        FusionNet(
            width=fusion_width,
            num_layers=num_layers,
            exit_widths=exit_widths,
            adjust=adjust,
            official=official,
        ),
    )


nitedr_small = partial(nitedr, **cleannet_small.keywords, fusion_width=16, exit_widths=(32, 16))
"""Ours, for a CPU: the small CleanNet and the small FusionNet (2.0 M parameters)."""


# Published names -------------------------------------------------------------------------------------------------

_FUSION = ("fusion_model.", "refine_model.", "conv_1.", "dense_layers.", "sub.", "balance.", "adjust.")


def published_nitedr(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of CleanNet and of FusionNet, two files in one dictionary, by our names.

    No name is in both, so the names of the files' parts (`params.`, `fusion_model.`, `refine_model.`) may be left out.
    """
    fusion = {name: value for name, value in state.items() if name.startswith(_FUSION)}
    clean = {name.removeprefix("params."): value for name, value in state.items() if name not in fusion}
    return {f"cleannet.{name}": value for name, value in published_cleannet(clean).items()} | {
        f"fusionnet.{name}": value for name, value in published_fusionnet(fusion).items()
    }
