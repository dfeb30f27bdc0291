"""The networks as their papers draw them, without what our plain forms save already: what speed is measured against.

Our plain networks merge attention with the projection after it, add four sparse attentions up before they meet the
picture, and take paired convolutions apart. `as_published` undoes this in place; outputs stay the same.
"""

from __future__ import annotations

from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairweather.models.cleannet import MDFFN, SHARES, TSSA, Mixture
from fairweather.models.restormer import MDTA


def as_published(net: nn.Module) -> nn.Module:
    """The same network with the parts of Restormer and CleanNet in their drawn form."""
    forms = {TSSA: tssa, MDTA: mdta, MDFFN: mdffn, Mixture: mixture}
    for module in net.modules():
        if type(module) in forms:
            module.forward = MethodType(forms[type(module)], module)  # type: ignore[method-assign]
    return net


def _qkv(module: MDTA, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = x.shape
    q, k, v = module.qkv_dwconv(module.qkv(x)).chunk(3, dim=1)
    heads = module.num_heads
    q, k, v = (t.reshape(b, heads, c // heads, h * w) for t in (q, k, v))
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v


def mdta(self: MDTA, x: Tensor) -> Tensor:
    q, k, v = _qkv(self, x)
    attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
    out: Tensor = self.project_out((attention @ v).reshape(x.shape))
    return out


def tssa(self: TSSA, x: Tensor) -> Tensor:
    q, k, v = _qkv(self, x)
    logits = q @ k.transpose(-2, -1) * self.temperature
    out = torch.zeros_like(v)
    for weight, (above, below) in zip(self.mix, SHARES, strict=True):
        kept = logits.topk(logits.shape[-1] * above // below, dim=-1).indices
        mask = torch.zeros_like(logits).scatter_(-1, kept, 1.0)
        attention = logits.masked_fill(mask == 0, float("-inf")).softmax(dim=-1)
        out = out + (attention @ v) * weight
    projected: Tensor = self.project_out(out.reshape(x.shape))
    return projected


def mdffn(self: MDFFN, x: Tensor) -> Tensor:
    y = self.project_in(x)
    s1, s2 = F.relu(self.dwconv3x3(y)).chunk(2, dim=1)
    l1, l2 = F.relu(self.dwconv5x5(y)).chunk(2, dim=1)
    y3 = F.relu(self.dwconv3x3_1(torch.cat((s1, l1), dim=1)))
    y5 = F.relu(self.dwconv5x5_1(torch.cat((s2, l2), dim=1)))
    out: Tensor = self.project_out(torch.cat((y3, y5), dim=1))
    return out


def mixture(self: Mixture, x: Tensor, gate: Tensor) -> Tensor:
    answers = [e(x) * g[:, None, None, None] for e, g in zip(self.experts, gate.unbind(1), strict=True)]
    return F.relu(F.relu(self.merge(torch.cat(answers, dim=1))) + x)
