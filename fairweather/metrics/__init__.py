"""Scores of a picture against the true one; every score names its profile."""

from fairweather.metrics.depth import DepthScores as DepthScores
from fairweather.metrics.depth import depth_scores as depth_scores
from fairweather.metrics.profiles import PROFILES as PROFILES
from fairweather.metrics.profiles import Means as Means
from fairweather.metrics.profiles import Profile as Profile
from fairweather.metrics.profiles import Row as Row
from fairweather.metrics.profiles import Scores as Scores
from fairweather.metrics.profiles import ScoreTable as ScoreTable
from fairweather.metrics.profiles import luma_bt601 as luma_bt601
from fairweather.metrics.profiles import score as score
from fairweather.metrics.psnr import psnr as psnr
from fairweather.metrics.ssim import ssim as ssim
