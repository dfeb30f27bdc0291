"""Eleven scores of a fused picture against its two sources, as in Table II of NiteDR (arXiv 2402.18172).

There is no true fused picture, so each score asks how much of the visible and of the infrared picture is still
there. The definitions are those of a public MATLAB collection, read off from the magnitudes in the table; two of
them are not what their names promise: PSNR reads 48.13 dB too high, and SSIM has practically no constants.

**The plain average of the two sources is hard to beat**: no picture can have a larger PSNR or a smaller MSE (but for
its rounding to 8 bit), and CC rewards averaging too. Print its scores beside every result.

Inside, pictures are grey, float64, and hold the whole numbers 0 to 255. The metrics are written for one picture; a
table shows the mean over pictures.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fairweather.errors import MissingExtraError, UsageError
from fairweather.metrics.ssim import ssim

Grey: TypeAlias = Float[np.ndarray, "h w"]

SHORTEST_SIDE = 41
"""Of the pictures: below it no window fits into the coarsest scale of VIF (3 pixels) and of MS-SSIM (11 pixels)."""

EPS = float(np.finfo(np.float64).eps)


class FusionScores(NamedTuple):
    """In the order of Table II; larger is better, but for mse."""

    psnr: float
    ssim: float
    ms_ssim: float
    mi: float
    vif: float
    cc: float
    fmi_pixel: float
    fmi_dct: float
    fmi_w: float
    mse: float
    qabf: float


PAPER = FusionScores(
    psnr=64.7128,
    ssim=0.4909,
    ms_ssim=0.8885,
    mi=2.9556,
    vif=0.5766,
    cc=0.6501,
    fmi_pixel=0.8620,
    fmi_dct=0.3632,
    fmi_w=0.3946,
    mse=0.0275,
    qabf=0.4597,
)
"""NiteDR's row of Table II as the paper prints it, the mean of the 40 test pairs of RoadScene-rain."""


def fusion_scores(
    fused: Float[Tensor, "_ _ _"], visible: Float[Tensor, "_ _ _"], infrared: Float[Tensor, "_ _ _"]
) -> FusionScores:
    """Score a fused picture against the two pictures that it was made of.

    Args:
        fused: "3 h w" RGB or "1 h w" grey, clamped to [0, 1] first, since a network may leave that range.
        visible: RGB or grey of the same size. The paper's is the clean one, not the rainy one.
        infrared: RGB or grey of the same size.

    Returns:
        psnr is inf where all three are the same picture; everything else is finite.

    Raises:
        UsageError: if a picture has not 1 or 3 channels, is not of the size of the others, is under 41 pixels high
            or wide, or holds NaN.
        MissingExtraError: SciPy or PyWavelets is not installed.
    """
    planes = []
    for name, picture in {"fused": fused, "visible": visible, "infrared": infrared}.items():
        if picture.ndim != 3 or picture.shape[0] not in (1, 3) or picture.shape[1:] != fused.shape[1:]:
            raise UsageError(
                f"{name} is {tuple(picture.shape)} and fused {tuple(fused.shape)}; "
                "fusion scores need pictures of one size with 1 or 3 channels, (c, h, w)"
            )
        if min(picture.shape[1:]) < SHORTEST_SIDE:
            raise UsageError(
                f"{name} is {tuple(picture.shape)}; fusion scores need at least {SHORTEST_SIDE} pixels a side"
            )
        if picture.isnan().any():
            raise UsageError(f"{name} holds NaN, so it cannot be scored; look at the network that made it")
        planes.append(grey_8bit(picture))
    f, v, i = planes
    return FusionScores(
        psnr=peak_ratio(f, v, i),
        ssim=similarity(f, v, i),
        ms_ssim=multiscale_similarity(f, v, i),
        mi=mutual_information(f, v, i),
        vif=information_fidelity(f, v, i),
        cc=correlation(f, v, i),
        fmi_pixel=feature_information(edge_map(f), edge_map(v), edge_map(i)),
        fmi_dct=feature_information(cosine_map(f), cosine_map(v), cosine_map(i)),
        fmi_w=feature_information(wavelet_map(f), wavelet_map(v), wavelet_map(i)),
        mse=squared_error(f, v, i),
        qabf=edge_preservation(f, v, i),
    )


@torch.no_grad()
def grey_8bit(picture: Float[Tensor, "c h w"]) -> Grey:
    """A picture of 1 or 3 channels in [0, 1] as 8-bit grey, 0 to 255: .2989 R + .5870 G + .1140 B, rounded.

    >>> grey_8bit(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1))
    array([[76.]])
    """
    x = (picture.double().clamp(0, 1) * 255).round().cpu().numpy()
    if len(x) == 3:
        x = np.round(0.2989 * x[:1] + 0.5870 * x[1:2] + 0.1140 * x[2:])
    plane: Grey = x[0]
    return plane


# ---------------------------------------------------------------- of the pixels, one by one


def squared_error(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """MSE: mean of ((F - X) / 255)^2, averaged over the two sources X.

    >>> black, white = np.zeros((1, 1)), np.full((1, 1), 255.0)
    >>> squared_error(black, black, white)
    0.5
    """
    return float(np.mean([np.square((fused - x) / 255).mean() for x in (visible, infrared)]))


def peak_ratio(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """PSNR = 10 log10(255^2 / MSE) in dB, inf where MSE is 0.

    The peak is that of 8-bit data and the error that of [0, 1]: 48.13 dB above what PSNR usually means.
    """
    mse = squared_error(fused, visible, infrared)
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def correlation(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """CC: Pearson correlation of F and X, in [-1, 1], averaged over the two; 0 with a picture that is constant."""
    return (_pearson(fused, visible) + _pearson(fused, infrared)) / 2


def _pearson(x: Grey, y: Grey) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def mutual_information(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """MI = H(X) + H(F) - H(X, F) in bits, from histograms of 256 bins, summed over the two sources.

    In the joint histogram 255 counts as 254, as in the collection, whose 8-bit arithmetic saturates there.

    >>> x = np.arange(16.0).reshape(4, 4)
    >>> mutual_information(x, x, x)
    8.0
    """
    return _shared_bits(fused, visible) + _shared_bits(fused, infrared)


def _shared_bits(x: Grey, y: Grey) -> float:
    joint = 256 * np.minimum(x, 254) + np.minimum(y, 254)
    return _bits(x) + _bits(y) - _bits(joint)


def _bits(values: Grey) -> float:
    """Entropy of whole numbers."""
    counts = np.bincount(values.astype(np.intp).ravel())
    share = counts[counts > 0] / values.size
    return float(-(share * np.log2(share)).sum())


# ---------------------------------------------------------------- of windows of the pictures


def similarity(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """SSIM, averaged over the two sources, with the constants of data in [0, 1] on data up to 255.

    So MATLAB's `ssim` reads pictures of type double: what is left of the constants hardly matters.
    """
    sources = torch.from_numpy(np.stack([visible, infrared]))[:, None]  # 2 1 h w
    repeated = torch.from_numpy(fused).expand_as(sources)
    return ssim(repeated, sources, data_range=1, border="replicate").mean().item()


def multiscale_similarity(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """MS-SSIM: the structural quality of Ma, Zeng and Wang (IEEE TIP 2015) over three scales, product of Q_s^w_s."""
    weights = np.array([0.0448, 0.2856, 0.3001])
    quality = []
    for _ in weights:
        quality.append(_structural_quality(fused, visible, infrared))
        fused, visible, infrared = _halved(fused), _halved(visible), _halved(infrared)
    # A product of powers has no value for a negative quality, and this one is a mean of values in [-1, 1].
    return float(np.prod(np.maximum(quality, 0) ** (weights / weights.sum())))


def _halved(x: Grey) -> Float[np.ndarray, "h2 w2"]:
    """Mean of each pixel with its neighbours to the right and below, at every second pixel."""
    x = np.pad(x, (0, 1), mode="edge")
    mean: Grey = (x[:-1, :-1] + x[:-1, 1:] + x[1:, :-1] + x[1:, 1:]) / 4
    return mean[::2, ::2]


def _structural_quality(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """Structural similarity of F and, patch by patch of 11x11, the best mixture of the two sources, in the mean.

    The mixture is r = a (A - its mean) + b (B - its mean) with a and b constant in a patch, so that all that is needed
    of it follows from the moments of A, B and F.
    """
    pictures = {"a": infrared, "b": visible, "f": fused}
    flat, bell = (_moments(pictures, weights) for weights in (np.full(11, 1 / 11), _gaussian(11, 1.5)))
    norm_a, norm_b = (np.sqrt(np.maximum(121 * flat[pair], 0)) for pair in ("aa", "bb"))
    norm_sum = np.sqrt(np.maximum(121 * (flat["aa"] + flat["bb"] + 2 * flat["ab"]), 0))
    energy_a, energy_b = norm_a + 0.001, norm_b + 0.001
    # Sources that agree are mixed by their strength, the stronger taking nearly all; others are mixed evenly.
    consistency = np.minimum((norm_sum + EPS) / (norm_a + norm_b + EPS), 1)
    power = np.minimum(np.tan(np.pi / 2 * consistency), 10)
    weight_a, weight_b = (energy_a / 11) ** power + EPS, (energy_b / 11) ** power + EPS
    a = weight_a / (weight_a + weight_b) / energy_a
    b = weight_b / (weight_a + weight_b) / energy_b
    norm = np.sqrt(np.maximum(121 * (a * a * flat["aa"] + b * b * flat["bb"] + 2 * a * b * flat["ab"]), 0))
    gain = _ratio(np.maximum(energy_a, energy_b), norm)
    a, b = gain * a, gain * b
    variance = a * a * bell["aa"] + b * b * bell["bb"] + 2 * a * b * bell["ab"]
    covariance = a * bell["af"] + b * bell["bf"]
    c = (0.03 * 255) ** 2
    return float(((2 * covariance + c) / (variance + bell["ff"] + c)).mean())


def information_fidelity(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """VIF, pixel domain (Sheikh and Bovik, IEEE TIP 2006): 1 for equal pictures, summed over the two sources.

    Over four scales, the bits that F keeps of X over those that X has; 0 for an X that is constant.
    """
    return _fidelity(visible, fused) + _fidelity(infrared, fused)


def _fidelity(source: Grey, fused: Grey) -> float:
    noise = 2.0
    kept = held = 0.0
    for scale, side in enumerate((17, 9, 5, 3)):
        weights = _gaussian(side, side / 5)
        if scale > 0:
            source, fused = (_window_mean(x, weights)[::2, ::2] for x in (source, fused))
        moments = _moments({"x": source, "f": fused}, weights)
        var_x, var_f, cov = moments["xx"], moments["ff"], moments["xf"]
        alike = (var_x >= 1e-10) & (var_f >= 1e-10) & (cov > 0)
        gain = np.where(alike, cov, 0) / (np.maximum(var_x, 0) + 1e-10)
        lost = np.maximum(var_f - gain * cov, 0)
        kept += np.log10(1 + gain**2 * var_x / (lost + noise)).sum()
        held += np.log10(1 + np.where(var_x >= 1e-10, var_x, 0) / noise).sum()
    return float(kept / held) if held > 0 else 0.0


def _gaussian(side: int, sigma: float) -> Float[np.ndarray, " {side}"]:
    """Weights of one axis; they sum to 1."""
    weights = np.exp(-np.square(np.arange(side) - side // 2) / (2 * sigma**2))
    weights /= weights.sum()
    return weights


def _moments(
    pictures: dict[str, Grey], weights: Float[np.ndarray, " s"]
) -> dict[str, Float[np.ndarray, "h2 w2"]]:
    """Variances and covariances within each window, by the two letters of the pictures: "aa", "ab" ..."""
    mean = {name: _window_mean(x, weights) for name, x in pictures.items()}
    names = list(pictures)
    return {
        m + n: _window_mean(pictures[m] * pictures[n], weights) - mean[m] * mean[n]
        for k, m in enumerate(names)
        for n in names[k:]
    }


def _window_mean(x: Grey, weights: Float[np.ndarray, " s"]) -> Float[np.ndarray, "h2 w2"]:
    """Weighted mean over each window of an odd side that lies inside the picture."""
    ndimage = _extra("scipy.ndimage")
    cut = slice(len(weights) // 2, -(len(weights) // 2))
    inner: Grey = ndimage.correlate1d(ndimage.correlate1d(x, weights, axis=0), weights, axis=1)[cut, cut]
    return inner


def edge_preservation(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """Qabf (Xydeas and Petrovic, Electronics Letters 2000): how well F keeps strength and angle of the edges.

    At each pixel, for a source X: G is the weaker strength over the stronger, D = 1 - |angle_X - angle_F| / (pi / 2),
    and Q = .9994 / (1 + exp(-15 (G - .5))) .9879 / (1 + exp(-22 (D - .8))). The result is the mean of Q over pixels
    and sources, weighted by the strength in the source: 0 for black sources, .9753 at most. As in the collection, G
    is the strength itself where the two strengths are equal.
    """
    strength_f, angle_f = _gradient(fused)
    kept = weight = 0.0
    for source in (visible, infrared):
        strength, angle = _gradient(source)
        weaker, stronger = np.minimum(strength, strength_f), np.maximum(strength, strength_f)
        g = np.divide(weaker, stronger, out=strength.copy(), where=weaker < stronger)
        d = 1 - np.abs(angle - angle_f) / (np.pi / 2)
        q = 0.9994 / (1 + np.exp(-15 * (g - 0.5))) * 0.9879 / (1 + np.exp(-22 * (d - 0.8)))
        kept += (q * strength).sum()
        weight += strength.sum()
    return float(kept / weight) if weight > 0 else 0.0


def _gradient(x: Grey) -> tuple[Grey, Grey]:
    """Sobel strength, with black around the picture, and angle in (-pi/2, pi/2]."""
    ndimage = _extra("scipy.ndimage")
    # Upwards, as in the collection: a level edge has pi/2 whatever its sign, so the axis' direction makes a difference.
    right, up = ndimage.sobel(x, axis=1, mode="constant"), -ndimage.sobel(x, axis=0, mode="constant")
    slope = np.divide(up, right, out=np.full_like(x, np.inf), where=right != 0)
    return np.hypot(right, up), np.arctan(slope)


# ---------------------------------------------------------------- of feature maps


def edge_map(x: Grey) -> Grey:
    """Where MATLAB's `edge` finds a Sobel edge by default: 1, else 0.

    The squared gradient lies above four times its mean and is the largest along the axis on which it is steeper.
    """
    ndimage = _extra("scipy.ndimage")
    across, down = (np.abs(ndimage.sobel(x, axis=axis, mode="nearest")) for axis in (1, 0))
    squared = across**2 + down**2
    around = np.pad(squared, 1)
    left, right = around[1:-1, :-2], around[1:-1, 2:]
    above, below = around[:-2, 1:-1], around[2:, 1:-1]
    peak_across = (across >= down) & (left <= squared) & (squared > right)
    peak_down = (down >= across) & (above <= squared) & (squared > below)
    edges: Grey = ((squared > 4 * squared.mean()) & (peak_across | peak_down)).astype(np.float64)
    return edges


def cosine_map(x: Grey) -> Grey:
    """The orthonormal DCT-II of the whole picture."""
    transformed: Grey = _extra("scipy.fft").dctn(x, norm="ortho")
    return transformed


def wavelet_map(x: Grey) -> Float[np.ndarray, "h2 w2"]:
    """The four subbands of a discrete Meyer wavelet, tiled two by two and stretched to [0, 1]."""
    approximation, (level, upright, diagonal) = _extra("pywt").dwt2(x, "dmey", mode="symmetric")
    tiled = np.block([[approximation, level], [upright, diagonal]])
    tiled -= tiled.min()
    return tiled / (tiled.max() or 1)


_BLOCK = 512  # windows at a time: their 10x10 tables then stay in the processor's cache

Windows: TypeAlias = Float[np.ndarray, "9 n"]
Row: TypeAlias = Float[np.ndarray, " n"]


def feature_information(fused: Grey, visible: Grey, infrared: Grey) -> float:
    """FMI (Haghighat et al., Computers & Electrical Engineering 2011) of three feature maps; 1 where all are equal.

    The mean of `_dependence` over all windows of 3x3 pixels, and over the two sources.
    """
    f_all, v_all, i_all = _windows(fused), _windows(visible), _windows(infrared)
    total = 0.0
    for at in range(0, f_all.shape[1], _BLOCK):
        f, v, i = (windows[:, at : at + _BLOCK] for windows in (f_all, v_all, i_all))
        total += _dependence(i, f).sum()
        # The collection stretches F's window in place when it compares it with the infrared one, which comes first.
        f = np.where((i == f).all(0), f, _stretched(f))
        total += _dependence(v, f).sum()
    return float(total / (2 * f_all.shape[1]))


def _windows(x: Grey) -> Windows:
    """The values of each 3x3 window, column by column."""
    h, w = x.shape
    return np.stack([x[i : h - 2 + i, j : w - 2 + j].ravel() for j in range(3) for i in range(3)])


def _stretched(windows: Windows) -> Windows:
    """To [0, 1] within each window; a flat one becomes all ones."""
    least = windows.min(0)
    return _ratio(windows - least, windows.max(0) - least, otherwise=1)


def _distribution(windows: Windows) -> Windows:
    stretched = _stretched(windows)
    return _ratio(stretched, stretched.sum(0))


def _dependence(x: Windows, f: Windows) -> Row:
    """2 I / (H(p) + H(q)) of each pair of windows, which become distributions p and q over 9 places; 1 where equal.

    How p and q belong together is not known. It is guessed: their joint distribution is a mixture of independence
    and the extreme that has the given marginals (Nelsen, Communications in Statistics 1987),

        phi M + (1 - phi) p q,    phi = |c| sd_p sd_q / (largest covariance that p and q can have)

    for the correlation c of the nine values of p with those of q. M couples p with q in rising order where c >= 0 and
    in falling order where c < 0, which is the rising order with q read backwards.
    """
    dependence = np.ones(x.shape[1])
    differ = np.flatnonzero((x != f).any(0))
    if not len(differ):
        return dependence
    p, q = _distribution(x.take(differ, axis=1)), _distribution(f.take(differ, axis=1))
    p_rest, q_rest = p - 1 / 9, q - 1 / 9
    scale = np.sqrt((p_rest**2).sum(0) * (q_rest**2).sum(0))
    c = _ratio((p_rest * q_rest).sum(0), scale)
    q = np.where(c < 0, q[::-1], q)
    cdf_p, cdf_q = p.cumsum(0), q.cumsum(0)
    cdf = np.zeros((10, 10, len(differ)))
    np.minimum(cdf_p[:, None], cdf_q, out=cdf[1:, 1:])
    largest = cdf.sum((0, 1)) - cdf_p.sum(0) * cdf_q.sum(0)  # Hoeffding: sum of the joint cdf less P Q
    deviations = _deviation(p) * _deviation(q)
    # A p of a single place leaves rounding in `largest`, and no choice: its joint distribution is p q.
    phi = np.where(deviations > 0, _ratio(np.abs(c) * deviations, largest), 0)
    joint = phi * np.diff(np.diff(cdf, axis=0), axis=1) + ((1 - phi) * p)[:, None] * q  # 9 9 n
    apart = _entropy(p) + _entropy(q)
    dependence[differ] = _ratio(2 * (apart - _entropy(joint.reshape(81, -1))), apart)
    return dependence


def _ratio(
    x: Float[np.ndarray, "*rows n"], by: Float[np.ndarray, "*rest n"], *, otherwise: float = 0
) -> Float[np.ndarray, "*rows n"]:
    """x / by where `by` is positive."""
    ratio: Float[np.ndarray, "*rows n"] = np.divide(x, by, out=np.full_like(x, otherwise), where=by > 0)
    return ratio


def _deviation(p: Windows) -> Row:
    """Standard deviation of the place under p."""
    place = np.arange(9.0)[:, None]
    variance = (place**2 * p).sum(0) - (place * p).sum(0) ** 2
    deviation: Row = np.sqrt(np.maximum(variance, 0))
    return deviation


def _entropy(p: Float[np.ndarray, "cells n"]) -> Row:
    """In nats. phi can exceed 1, so a joint distribution can have negative cells: of their logarithm the real part."""
    entropy: Row = -(p * np.log(np.abs(p) + 1e-300)).sum(0)  # 0 log 0 is 0; the offset changes nothing else
    return entropy


def _extra(module: str) -> Any:
    """Imported on use: the package runs without SciPy and PyWavelets."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise
        raise MissingExtraError("scoring fused pictures", "night") from None
