"""DCMPNet with the published names' weights gives the published network's output, and so does each of its parts.

The stored outputs were computed in double precision; their standard deviations are 0.5 to 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from cases import published, stored
from torch import Tensor, nn

import fairweather as fw
from fairweather.converting import convert
from fairweather.errors import WeightsError
from fairweather.models.dcmpnet import DCMPNet
from fairweather.models.depth_network import DepthNetwork
from fairweather.models.legm import LEGMBlock
from fairweather.weights import read_weights

TOLERANCE = 2e-4  # absolute, float32 against double


@cache
def network() -> DCMPNet:
    net = fw.from_published("dcmpnet", published("dcmpnet"))
    assert isinstance(net, DCMPNet)
    return net.requires_grad_(False)


@cache
def arrays() -> dict[str, Tensor]:
    return stored("dcmpnet")


def near(found: Tensor, name: str) -> None:
    torch.testing.assert_close(found, arrays()[name], atol=TOLERANCE, rtol=0)


def part(path: str) -> nn.Module:
    return network().dehazing.get_submodule(path)


@pytest.mark.parametrize("case", ["net_aligned", "net_awkward", "net_batch"])
def test_the_whole_network(case: str) -> None:
    found = network()(arrays()[f"{case}.in"] * 0.5 + 0.5)
    near(found.clear * 2 - 1, f"{case}.out")
    if case != "net_batch":
        for number, feature in enumerate(found.features, start=1):
            if (name := f"{case}.d{number}") in arrays():
                near(feature, name)
            else:
                near(feature[..., ::2, ::2], f"{name}@s2")
    assert found.depth is None  # the dehazing file has no depth network
    assert found.inner_depth.shape == found.clear[:, :1].shape


@contextmanager
def outputs(*paths: str) -> Iterator[dict[str, Tensor]]:
    """What these parts return during the forward passes inside."""
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> object:
        return part(path).register_forward_hook(lambda module, inputs, output: kept.update({path: output}))

    handles = [keep(path) for path in paths]
    yield kept
    for handle in handles:
        handle.remove()  # type: ignore[attr-defined]


def test_every_stage_on_the_way() -> None:
    names = {
        "depth_branch": "dpn",
        "depth_dense": "drdb",
        "mix1": "conv1",
        **{f"legm{i}": f"legm{i}" for i in range(1, 6)},
        "msaam.weigh": "ca",
        "mfm1": "mfm1",
        "mfm2": "mfm2",
    }
    with outputs(*names, "msaam") as kept:
        out = network()(arrays()["trace.in"] * 0.5 + 0.5)
    for ours, theirs in names.items():
        near(kept[ours], f"trace.{theirs}")
    near(kept["msaam"][0], "trace.fuse_2")
    near(kept["msaam"][1], "trace.fuse_3")
    near(out.clear * 2 - 1, "trace.out")


@pytest.mark.parametrize(
    ("path", "case"),
    [
        ("depth_branch", "dn_even"),
        ("depth_branch", "dn_odd"),
        ("depth_dense", "drdb"),
        ("legm1.blocks.0", "tb_plain_even"),
        ("legm1.blocks.1", "tb_plain_odd"),
        ("legm1.blocks.6", "tb_attn_noshift"),
        ("legm1.blocks.7", "tb_attn_shift"),
        ("legm3.blocks.2", "tb_attn6_noshift"),
        ("legm3.blocks.3", "tb_attn6_shift"),
        ("legm1", "legm1"),
        ("legm4", "legm4"),
        ("patch_embed", "patch_embed"),
        ("merge1", "patch_merge1"),
        ("patch_unembed", "patch_unembed"),
    ],
)
def test_a_part_alone(path: str, case: str) -> None:
    near(part(path)(arrays()[f"mod.{case}.in"]), f"mod.{case}.out")


@pytest.mark.parametrize("case", ["mfm1", "mfm2"])
def test_fusion_alone(case: str) -> None:
    near(part(case)(arrays()[f"mod.{case}.in0"], arrays()[f"mod.{case}.in1"]), f"mod.{case}.out")


@pytest.mark.parametrize("case", ["unet_even", "unet_odd"])
def test_unet_alone(case: str) -> None:
    for number, found in enumerate(part("unet")(arrays()[f"mod.{case}.in"]), start=1):
        near(found, f"mod.{case}.d{number}")


def test_norm_attention_and_position_bias_alone() -> None:
    block = part("legm1.blocks.6")
    assert isinstance(block, LEGMBlock)
    assert block.norm is not None
    assert block.attention is not None
    out, rescale, rebias = block.norm(arrays()["mod.norm.in"])
    near(out, "mod.norm.out")
    near(rescale, "mod.norm.rescale")
    near(rebias, "mod.norm.rebias")
    near(block.attention.attend(arrays()["mod.watt.in"]), "mod.watt.out")
    near(block.attention.position_bias(), "mod.rel_bias.out")


def test_split_alone() -> None:
    split = part("split1")
    found = torch.nn.functional.pixel_shuffle(split(arrays()["mod.patch_split1.in"]), 2)
    near(found, "mod.patch_split1.out")


def test_both_published_files_give_the_training_step() -> None:
    both = {"dehaze_net": published("dcmpnet"), "depth_net": depth_file(), "epoch_depth": 3}
    net = fw.from_published("dcmpnet", both)
    assert isinstance(net, DCMPNet)
    found = net.requires_grad_(False)(arrays()["step.hazy"] * 0.5 + 0.5)
    near(found.clear * 2 - 1, "step.dehazed")
    near(found.depth, "step.depth_pred")


def depth_file() -> dict[str, Tensor]:
    prefix = "depth_net."
    return {k.removeprefix(prefix): v for k, v in published("dcmpnet.train").items() if k.startswith(prefix)}


def test_prefixes_position_buffers_and_missing_dead_weights_do_not_matter() -> None:
    dead = ("conv11.", "conv22.", "conv_fu.", "ccc.", "fuse_conv1.")
    state = {f"module.{k}": v for k, v in published("dcmpnet").items() if not k.startswith(dead)}
    state["module.legm1.blocks.6.attn.attn.relative_positions"] = torch.zeros(64, 64, 2)
    x = torch.rand(1, 3, 30, 34)
    net = fw.from_published("dcmpnet", {"dehaze_net": state, "dehaze_net_best_psnr": 42.0})
    assert torch.equal(net.requires_grad_(False)(x).clear, network()(x).clear)


def test_the_older_variant_is_named() -> None:
    state = published("dcmpnet") | {"conv2.weight": torch.zeros(48, 97, 1, 1)}
    with pytest.raises(WeightsError, match=r"takes 97 channels: .* variant of before July 2024"):
        fw.from_published("dcmpnet", state)


def test_the_depth_file_alone_is_named() -> None:
    for file in (depth_file(), {"depth_net": depth_file()}):
        with pytest.raises(WeightsError, match="depth network alone; give the dehazing network with it"):
            fw.from_published("dcmpnet", file)


@pytest.mark.parametrize("dehazing", ["bare", "dehaze_net"])
@pytest.mark.parametrize("depth", ["bare", "depth_net"])
def test_both_files_are_converted_with_and_without_names_around_them(
    dehazing: str, depth: str, tmp_path: Path
) -> None:
    clear, near = published("dcmpnet"), depth_file()
    files = [tmp_path / "dehaze.pk", tmp_path / "depth.pk"]
    torch.save(clear if dehazing == "bare" else {dehazing: clear}, files[0])
    torch.save(near if depth == "bare" else {depth: near}, files[1])
    expected = fw.from_published("dcmpnet", {"dehaze_net": clear, "depth_net": near}).state_dict()
    for order in (files, files[::-1]):
        done = convert("dcmpnet", order, tmp_path / "ours.safetensors")
        found = read_weights(done.path)[0]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_inputs_below_25_pixels_work() -> None:
    for size in ((1, 1), (24, 24), (7, 60)):
        out = network()(torch.rand(1, 3, *size))
        assert out.clear.shape == (1, 3, *size)
        assert out.clear.isfinite().all()


def test_a_depth_network_has_the_released_size() -> None:
    assert sum(p.numel() for p in DepthNetwork().parameters()) == 1_980_283
