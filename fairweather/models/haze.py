"""Haze by the scattering model, the dark channel prior's guess of it, and how a network corrects that guess."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fairweather.models.layers import guided_filter, over_picture


class Haze(NamedTuple):
    """Haze by the scattering model, hazy = clear * t + airlight * (1 - t)."""

    log_transmission: Float[Tensor, "b c h w"]
    airlight: Float[Tensor, "b 3 h w"]
    """In [0, 1], nominally."""

    def resized(self, size: tuple[int, int]) -> Haze:
        """The same for a picture of (height, width)."""
        return Haze(*(F.interpolate(x, size, mode="bilinear") for x in self))

    def cropped(self, height: int, width: int) -> Haze:
        """The upper left corner."""
        return Haze(*(x[..., :height, :width] for x in self))

    def removed(self, hazy: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The clear picture, of a hazy one in [0, 1]."""
        return torch.addcmul(self.airlight, hazy - self.airlight, (-self.log_transmission).exp())


WINDOWS = (5, 13, 21)
"""Sides that the dark channel prior is asked with, in pixels of the working grid; it starts from the middle one."""
LEAST_TRANSMISSION = 0.05


def dark_channel_prior(picture: Float[Tensor, "b 3 h w"]) -> Haze:
    """The guess of the dark channel prior (He, Sun and Tang, CVPR 2009): in a clear picture, some pixel nearby is dark.

    Args:
        picture: hazy RGB in [0, 1].

    Returns:
        Log transmission for each of WINDOWS, smoothed along the picture's edges by a guided filter, and the airlight,
        the same everywhere.
    """
    dark = dark_channel(picture, WINDOWS[1]).flatten(1)

    def brightest() -> tuple[Tensor, ...]:
        # The dark channel has plateaus, and libraries sort equal values differently: there the brighter ones are taken.
        order = dark + 1e-3 * picture.mean(dim=1).flatten(1)
        places = order.topk(max(1, dark.shape[1] // 100), dim=1).indices[:, None].expand(-1, 3, -1)
        return (picture.flatten(2).gather(2, places).mean(dim=2)[..., None, None].clamp_min(0.2),)

    (airlight,) = over_picture(brightest)
    relative = picture / airlight
    guide = picture.mean(dim=1, keepdim=True)
    rough = torch.cat([1 - 0.95 * dark_channel(relative, window) for window in WINDOWS], dim=1)
    transmission = guided_filter(guide, rough, radius=10).clamp(2 * LEAST_TRANSMISSION, 1)
    return Haze(transmission.log(), airlight.expand_as(picture))


def dark_channel(picture: Float[Tensor, "b 3 h w"], window: int) -> Float[Tensor, "b 1 h w"]:
    """The darkest channel of the darkest pixel in the window around each pixel.

    >>> dark_channel(torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 2, 2), 3).unique()
    tensor([0.2000])
    """
    brightness = -picture.amin(dim=1, keepdim=True)
    rows = F.max_pool2d(brightness, (window, 1), stride=1, padding=(window // 2, 0))
    return -F.max_pool2d(rows, (1, window), stride=1, padding=(0, window // 2))


HALF_CLEAR = -2.5
"""Mean correction of the trust, a logit, at which a picture is taken for half clear."""


def clearness_of(correction: Float[Tensor, "b 7 h w"]) -> Float[Tensor, " b"]:
    """How sure it is, as a logit, that there is no haze: then it has little trust in a prior that always finds some."""
    (trust,) = over_picture(lambda: (correction[:, 0].mean(dim=(1, 2)),))
    return 4 * (HALF_CLEAR - trust)


def corrected_guess(
    guess: Haze, correction: Float[Tensor, "b 7 h w"], clearness: Float[Tensor, " b"]
) -> Haze:
    """The guess with how far it is trusted (1 channel), what is added to log transmission (3) and to airlight (3).

    The surer it is that the picture is clear, the less haze is found in all of it, whatever the corrections.
    """
    trust, log_transmission, airlight = correction[:, :1], correction[:, 1:4], correction[:, 4:]
    # Above 1 a little, for pairs whose clear picture has less contrast.
    log_transmission = ((trust + 2).sigmoid() * guess.log_transmission[:, 1:2] + log_transmission).clamp(
        math.log(LEAST_TRANSMISSION), 1
    )
    return Haze(log_transmission * (-clearness).sigmoid().view(-1, 1, 1, 1), guess.airlight + airlight)


def departure_of(guess: Haze, corrected: Haze) -> Float[Tensor, " b"]:
    transmission = corrected.log_transmission - guess.log_transmission[:, 1:2]
    airlight = corrected.airlight - guess.airlight
    return transmission.square().mean(dim=(1, 2, 3)) + airlight.square().mean(dim=(1, 2, 3))
