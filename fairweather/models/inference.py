"""The same network, cheaper to evaluate: `for_inference`.

A module that can be had cheaper says how in a method `inference_form()`, by the identities of `folding`. It is called
on a copy, in evaluation mode, from the outermost module inwards; it changes the module and returns it, or returns what
takes its place. Then large 3x3 convolutions are replaced as `winograd` says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from fairweather.models.winograd import with_winograd

Network = TypeVar("Network", bound=nn.Module)


def for_inference(net: Network) -> Network:
    """A copy of a network with the same outputs up to rounding, faster and for evaluation alone.

    Linear maps that follow each other are merged, norms' constants are folded into the convolutions around them, what
    no output depends on is left out, and weights lie channels-last. The copy has other parameters than the network:
    it cannot be trained, and its weights are not to be saved. What is in inference form already comes back as it is.

    >>> from fairweather.models import create_model
    >>> net = create_model("restormer_small")
    >>> x = torch.rand(1, 3, 16, 16)
    >>> torch.testing.assert_close(for_inference(net)(x), net(x), rtol=0, atol=1e-5)
    """
    if getattr(net, "is_inference_form", False):
        return net
    fast = copy.deepcopy(net).eval().requires_grad_(False)
    with torch.no_grad():
        fast = cast(Network, folded(fast))
        if all(
            parameter.device.type == "cpu" for parameter in fast.parameters()
        ):  # other devices' libraries have it
            with_winograd(fast)
    convert_conv2d_weight_memory_format(fast, torch.channels_last)
    fast.is_inference_form = True  # type: ignore[assignment]
    return fast


def folded(module: nn.Module) -> nn.Module:
    """The module, or what takes its place, with all inside it in their inference forms."""
    form: Callable[[], nn.Module] | None = getattr(module, "inference_form", None)
    if form is not None:
        module = form()
    for name, child in module.named_children():
        setattr(module, name, folded(child))
    return module
