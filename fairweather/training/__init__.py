"""Training: the table of recipes."""

from __future__ import annotations

from collections.abc import Callable

from fairweather.training import dcmpnet, irconstyle, judge, nitedr, restoration
from fairweather.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "derain_start": restoration.derain_start,
    "derain_small": restoration.derain_small,
    "derain_long": restoration.derain_long,
    "derain_finish": restoration.derain_finish,
    "derain_lamps": restoration.derain_lamps,
    "denoise_start": restoration.denoise_start,
    "denoise_small": restoration.denoise_small,
    "denoise_camera": restoration.denoise_camera,
    "denoise_long": restoration.denoise_long,
    "denoise_coarse": restoration.denoise_coarse,
    "denoise_finish": restoration.denoise_finish,
    "denoise_longer": restoration.denoise_longer,
    "denoise_last": restoration.denoise_last,
    "denoise_settle": restoration.denoise_settle,
    "denoise_tiny": restoration.denoise_tiny,
    "deblur_small": restoration.deblur_small,
    "deblur_long": restoration.deblur_long,
    "judge_start": judge.judge_start,
    "judge_small": judge.judge_small,
    "judge_rooms": judge.judge_rooms,
    "judge_evidence": judge.judge_evidence,
    "dcmpnet_small": dcmpnet.dcmpnet_small,
    "dcmpnet_imagined": dcmpnet.dcmpnet_imagined,
    "dcmpnet_blacks": dcmpnet.dcmpnet_blacks,
    "dcmpnet_long": dcmpnet.dcmpnet_long,
    "dcmpnet_longer": dcmpnet.dcmpnet_longer,
    "dcmpnet_official": dcmpnet.dcmpnet_official,
    "dcmpnet_outdoor": dcmpnet.dcmpnet_outdoor,
    "cleannet_small": nitedr.cleannet_small,
    "cleannet_official": nitedr.cleannet_official,
    "fusion_small": nitedr.fusion_small,
    "fusion_official": nitedr.fusion_official,
    "constyle_derain": irconstyle.constyle_derain,
    "constyle_denoise": irconstyle.constyle_denoise,
    "constyle_deblur": irconstyle.constyle_deblur,
    "constyle_dehaze": irconstyle.constyle_dehaze,
    "constyle_official": irconstyle.constyle_official,
    "constyle_pretrain": irconstyle.constyle_pretrain,
}
