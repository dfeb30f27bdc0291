"""What every network of the table promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fairweather as fw
from fairweather.errors import UsageError, WeightsError
from fairweather.models import MODELS, model_info
from fairweather.models.constyle import ConStyleUNet
from fairweather.models.nafnet import NAFNet
from fairweather.weights import save_weights

SMALL = {
    "nafnet": {"width": 4, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1)},
    "nafnet_tiny": {},
    "constyle_nafnet": {"width": 4, "num_blocks": (1,) * 7},
    "restormer": {"width": 4, "num_blocks": (1,) * 4, "num_refinement_blocks": 1},
    "constyle_restormer": {"width": 4, "num_blocks": (1,) * 7, "num_refinement_blocks": 1},
    "uformer": {"width": 4, "num_blocks": (1, 1, 2), "num_heads": (1, 2, 2)},
    "constyle_uformer": {"width": 4, "num_blocks": (1,) * 7, "num_heads": (1, 1, 2, 2, 2, 2, 1)},
    "cleannet": {"width": 4, "num_blocks": (1, 1, 1, 1), "num_steps": 2},
    "kbnet": {"width": 4, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1)},
    "constyle_kbnet": {"width": 4, "num_blocks": (1,) * 7},
}
"""Constructions that run in a blink, of each network class but DCMPNet and MAXIM, which have files of their own."""


@pytest.mark.parametrize("name", list(MODELS))
def test_descriptor_tells_the_truth(name: str) -> None:
    info = model_info(name)
    with torch.device("meta"):  # shapes only: the largest has 87 million parameters
        net = info.build()
    assert sum(p.numel() for p in net.parameters()) == info.params
    assert net.multiple_of == info.multiple_of
    assert info.task


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (17, 32), (64, 64)])
@torch.inference_mode()
def test_any_size_comes_back_at_its_size(name: str, size: tuple[int, int]) -> None:
    net = fw.create_model(name, **SMALL[name]).eval()
    y = net(torch.rand(2, 3, *size))
    assert y.shape == (2, 3, *size)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", list(SMALL))
def test_every_parameter_receives_a_gradient(name: str) -> None:
    net = fw.create_model(
        name, **SMALL[name]
    ).eval()  # a bias before a batch norm has no gradient in training
    for parameter_name, parameter in net.named_parameters():
        if parameter_name.endswith(("beta", "gamma")):  # they start at 0, which would hide their branch
            torch.nn.init.constant_(parameter, 0.5)
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_new_nafnet_block_is_the_identity() -> None:
    net = fw.create_model("nafnet_tiny")
    block = net.middle[0]
    x = torch.rand(1, 96, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", list(SMALL))
@torch.inference_mode()
def test_saved_weights_load_again(name: str, tmp_path: Path) -> None:
    net = fw.create_model(name, **SMALL[name]).eval()
    net.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    )
    file = tmp_path / "net.safetensors"
    save_weights(net.state_dict(), file, {"model": name})
    again = fw.create_model(name, weights=file, **SMALL[name])
    x = torch.rand(1, 3, 24, 24)
    assert torch.equal(net(x), again(x))


def test_list_models_names_the_table() -> None:
    assert fw.list_models() == list(fw.MODELS)
    assert {"nafnet", "constyle_nafnet"} <= set(fw.list_models())


def test_overrides_reach_the_constructor() -> None:
    assert fw.create_model("constyle_nafnet", **SMALL["constyle_nafnet"]).entry.out_channels == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fw.create_model("nafnett"), "did you mean 'nafnet'"),
        (lambda: fw.create_model("nafnet", widht=8), "did you mean 'width'"),
        (lambda: fw.from_published("nafnet_small", {}), "nothing is published"),
    ],
)
def test_wrong_names_say_the_nearest(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def test_a_checkpoint_of_another_network_is_told_apart() -> None:
    state = fw.create_model("nafnet", **SMALL["nafnet"]).state_dict()
    published = {
        k.replace("middle.", "middle_blks.").replace("attention.conv", "sca.1"): v for k, v in state.items()
    }
    with pytest.raises(WeightsError, match=r"do not fit: of \d+ tensors, \d+ missing .* unknown"):
        fw.from_published("nafnet", published)


def test_another_width_is_told_as_a_shape() -> None:
    state = fw.create_model("nafnet", **(SMALL["nafnet"] | {"width": 8})).state_dict()
    state = {k.replace("middle.", "middle_blks."): v for k, v in state.items()}
    state = {k.replace("ups.0.", "ups.0.0.").replace("ups.1.", "ups.1.0."): v for k, v in state.items()}
    with pytest.raises(WeightsError, match=r"of another shape .first: intro\.weight"):
        fw.from_published("nafnet", state, **SMALL["nafnet"])


def test_a_model_without_weights_says_which_have_some() -> None:
    with pytest.raises(
        WeightsError, match=r"no weights come with constyle_nafnet: .*models convert.* nafnet_small"
    ):
        fw.create_model("constyle_nafnet", weights="default")


def test_contradicting_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder_blocks has 2 sizes, decoder_blocks 1"):
        NAFNet(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1,))
    with pytest.raises(ValueError, match="expected 7"):
        ConStyleUNet(
            width=4,
            stage=lambda *_: torch.nn.Identity(),
            num_blocks=(1,),
            entry=torch.nn.Identity(),
            exit=torch.nn.Identity(),
            activation=lambda _: torch.nn.Identity(),
        )


@pytest.mark.parametrize("wrong", ["False", 0])
def test_a_switch_is_true_or_false(wrong: object) -> None:
    with pytest.raises(UsageError, match=f"mfm={wrong!r} of dcmpnet_small: expected true or false"):
        fw.create_model("dcmpnet_small", mfm=wrong)


def test_weights_of_constyle_by_their_earlier_names_still_fit(tmp_path: Path) -> None:
    net = fw.create_model("constyle_nafnet_small")
    earlier = {
        "fusion.gate.weight": "gate.weight",
        "fusion.gate.bias": "gate.bias",
        "fusion.mix.weight": "fusion.weight",
    }
    state = {earlier.get(name, name): value for name, value in net.state_dict().items()}
    save_weights(state, tmp_path / "net.safetensors", {"model": "constyle_nafnet_small"}, half=False)
    again = fw.create_model("constyle_nafnet_small", weights=tmp_path / "net.safetensors")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
