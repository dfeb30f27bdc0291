"""Winograd's filtering gives what the convolutions give that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairweather.models.winograd import WinogradConv2d, joined_rows, rows_of, tiles_of, with_winograd


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("height", [1, 4, 7, 16, 25])
def test_it_equals_the_convolution_at_any_height(height: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=dilation, dilation=dilation)
    x = torch.randn(2, 5, height, 6)
    largest = conv(x).abs().max().item()
    torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=0, atol=3e-6 * largest)
    conv, x = conv.double(), x.double()
    torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=0, atol=1e-13 * largest)


def test_maps_given_as_tiles_are_filtered_side_by_side() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(7, 4, 3, padding=2, dilation=2).double()
    x = torch.randn(1, 7, 9, 5).double()
    tiles = [tiles_of(rows_of(part, 2)) for part in x.split((3, 4), dim=1)]
    rows = WinogradConv2d(conv, (3, 4)).of_tiles(tiles)
    torch.testing.assert_close(joined_rows(rows, x, 2), conv(x), rtol=0, atol=1e-13)


def test_only_wide_convolutions_that_keep_the_size_are_replaced() -> None:
    net = nn.Sequential(
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 8, 3, padding=1),  # few channels out
        nn.Conv2d(32, 32, 3),  # loses its border
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=(2, 1), dilation=(2, 1)),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.Conv2d(32, 64, 3, padding=1)),
    )
    replaced = [
        name
        for name, part in with_winograd(net, least=32).named_modules()
        if isinstance(part, WinogradConv2d)
    ]
    assert replaced == ["0", "7.0"]
