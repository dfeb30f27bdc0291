"""What ails a picture: haze, rain, rain at night, noise, blur, several at once, or nothing.

One small ConStyle encoder (IRConStyle, arXiv 2402.15784) looks at a reduced copy of the whole picture, for what fills
the scene, another at the fine structure of pieces at full size, for what is in the pixels; a linear layer on their
vectors judges by looks. That is weighed with what two restorers would change in the picture (`models/evidence.py`), and
said as surely as held-back pictures bear out. The paper's encoder only guides a restorer: the judgement is ours.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fairweather.models.constyle import ConStyle
from fairweather.models.evidence import EVIDENCE
from fairweather.models.layers import reduced
from fairweather.models.pieces import details, fine

FINDINGS = ("haze", "rain", "night rain", "noise", "blur")
"""What can be found, in the order of the logits."""
WHOLE = 192
"""Longest side of the reduced copy, in pixels."""
ENLARGED = 8
"""Makes fine structure about as large as colours are."""


class Judge(nn.Module):
    """A picture to one logit for each of FINDINGS; sigmoid gives probabilities.

    Args:
        far, near: widths of the encoders of the reduced copy and of the pieces, see `ConStyle`.

    >>> Judge(far=4, near=4).eval()(torch.rand(2, 3, 75, 53)).shape
    torch.Size([2, 5])
    """

    multiple_of = 1

    def __init__(self, *, far: int, near: int) -> None:
        super().__init__()
        # Two, because their batch norms meet different pictures.
        self.far, self.near = ConStyle(far), ConStyle(near)
        self.head = nn.Linear(2 * 128, len(FINDINGS))
        self.weigher = Weigher(len(FINDINGS) + EVIDENCE, len(FINDINGS) - 1)
        self.register_buffer("temperature", torch.ones(len(FINDINGS)))

    def forward(self, x: Float[Tensor, "b 3 h w"], *, whole: int = WHOLE) -> Float[Tensor, "b findings"]:
        """By looks alone; `weigh` adds the evidence."""
        looks: Tensor = self.head(self.vector(x, whole=whole))
        return looks

    def vector(self, x: Float[Tensor, "b 3 h w"], *, whole: int = WHOLE) -> Float[Tensor, "b 256"]:
        """ConStyle's vector of the picture reduced to `whole` pixels, and the mean of those of its pieces."""
        pieces = details(x)
        far: Tensor = self.far(reduced(x, whole)).vector
        near: Tensor = self.near(ENLARGED * fine(torch.cat(pieces))).vector
        near = near.view(len(pieces), len(x), -1).mean(dim=0)
        return torch.cat((far, near), dim=1)

    def weigh(
        self, looks: Float[Tensor, "b findings"], evidence: Float[Tensor, "b evidence"]
    ) -> Float[Tensor, "b findings"]:
        """The logits by looks, in the light of what `evidence.evidence` found; haze by looks alone."""
        others: Tensor = self.weigher(torch.cat((looks, evidence), dim=1))
        return torch.cat((looks[:, :1], others), dim=1) / self.get_buffer("temperature")

    @torch.no_grad()
    def calibrate(self, logits: Float[Tensor, "n findings"], findings: Float[Tensor, "n findings"]) -> None:
        """Take the temperature of each finding, 0.5 to 2, that makes what was said of held-back pictures fit best.

        Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2), one
        temperature for each finding. It makes probabilities more or less sure, and puts none on the other side of 0.5.

        Args:
            logits: of `weigh`, at a temperature of 1.
            findings: in [0, 1].
        """
        temperatures = torch.logspace(-1, 1, 61, base=2, device=logits.device)
        losses = [
            F.binary_cross_entropy_with_logits(logits / t, findings, reduction="none").mean(dim=0)
            for t in temperatures
        ]
        self.get_buffer("temperature").copy_(temperatures[torch.stack(losses).argmin(dim=0)])


class Weigher(nn.Module):
    """Numbers on scales of their own to logits, by one hidden layer.

    Args:
        numbers: how many come in. answers: how many logits go out.
    """

    HIDDEN = 128
    FAR = 4.0
    """Deviations from the mean at which a number is cut: what training never saw shall not decide alone."""

    def __init__(self, numbers: int, answers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))
        self.layers = nn.Sequential(
            nn.Linear(numbers, self.HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(self.HIDDEN, answers)
        )

    @torch.no_grad()
    def learn_scales(self, x: Float[Tensor, "n numbers"]) -> None:
        """Take mean and deviation of each number from examples."""
        self.get_buffer("mean").copy_(x.mean(dim=0))
        self.get_buffer("deviation").copy_(x.std(dim=0).clamp_min(1e-3))

    def forward(self, x: Float[Tensor, "b numbers"]) -> Float[Tensor, "b answers"]:
        x = ((x - self.get_buffer("mean")) / self.get_buffer("deviation")).clamp(-self.FAR, self.FAR)
        if self.training:  # no two pictures give the same numbers
            x = x + 0.2 * torch.randn_like(x)
        logits: Tensor = self.layers(x)
        return logits


judge_small = partial(Judge, far=8, near=16)
"""Ours, for a CPU (1.5 M parameters)."""
