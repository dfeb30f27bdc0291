"""restore without a task: look at the picture, say what ails it, and put that right.

import fairweather as fw
result = fw.load("auto").restore("photo.jpg")
result.findings   # {"haze": 0.02, "rain": 0.94, "night rain": 0.01, "noise": 0.31, "blur": 0.03}
result.steps      # ("derain",)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fairweather.backends import Notes
from fairweather.errors import FairweatherError
from fairweather.models.evidence import WITNESSES, evidence
from fairweather.models.inference import for_inference
from fairweather.models.judge import FINDINGS, Judge
from fairweather.pipeline import (
    PAST,
    Image,
    Restorer,
    Result,
    are_equal,
    check_strength,
    check_tile,
    like,
    to_picture,
    with_pixels,
)

REMEDIES = {
    "noise": "denoise",
    "rain": "derain",
    "night rain": "derain",
    "haze": "dehaze",
}
"""The task that puts each finding right, in the order in which they are done: what a later step would amplify goes
first. Blur is told and left alone: soft pictures are too often taken for blurred; `fairweather deblur` takes part of it
away."""
SURE, UNSURE = 0.5, 0.25
"""From the first probability on something is done about a finding; between them it is told and left alone."""


def steps_for(findings: Mapping[str, float]) -> tuple[str, ...]:
    """The tasks that put right what is sure, each once.

    >>> steps_for({"haze": 0.8, "rain": 0.6, "night rain": 0.7, "noise": 0.9, "blur": 0.3})
    ('denoise', 'derain', 'dehaze')
    """
    sure = [task for finding, task in REMEDIES.items() if findings[finding] >= SURE]
    return tuple(dict.fromkeys(sure))


def told(findings: Mapping[str, float]) -> str:
    """What was found, for a person, the surest first.

    >>> told({"haze": 0.02, "rain": 0.944, "night rain": 0.01, "noise": 0.31, "blur": 0.1})
    'rain 0.94, noise 0.31 (unsure)'
    >>> told(dict.fromkeys(FINDINGS, 0.04))
    'clear (nothing above 0.04)'
    """
    shown = sorted(((p, name) for name, p in findings.items() if p >= UNSURE), reverse=True)
    if not shown:
        return f"clear (nothing above {max(findings.values()):.2f})"
    return ", ".join(f"{name} {p:.2f}{'' if p >= SURE else ' (unsure)'}" for p, name in shown)


def done_about(findings: Mapping[str, float], steps: Sequence[str]) -> str:
    """What was done about it, for a person, and what else could be.

    >>> findings = dict.fromkeys(FINDINGS, 0.04)
    >>> done_about(findings | {"noise": 0.9, "rain": 0.9}, ("denoise", "derain")), done_about(findings, ())
    ('denoised, derained', 'left alone')
    >>> done_about(findings | {"blur": 0.97}, ())
    "left alone; if that is blur, 'fairweather deblur' takes part of it away"
    """
    done = ", ".join(PAST[task] for task in steps) or "left alone"
    blurred = findings["blur"] >= SURE
    return f"{done}; if that is blur, 'fairweather deblur' takes part of it away" if blurred else done


def witness(restorer: Restorer) -> Callable[[Tensor], Tensor]:
    """A restorer as `evidence` asks it: a piece in, the restored piece out."""

    def restored(piece: Tensor) -> Tensor:
        picture = restorer.restore(piece, depth=False).image
        assert isinstance(picture, Tensor)
        return picture

    return restored


class AutoRestorer:
    """A judge, and the restorers of the tasks; what some would change is evidence. Safe to use from several threads.

    Args:
        net, model, sha256: of the judge.
        restorer: gives the restorer of a task; called when one is first needed.
        by_evidence: weigh what those of WITNESSES would change; a judge that was not trained with them judges by looks.
    """

    task = "auto"
    finds_depth = False
    ensemble = 1

    def __init__(
        self,
        net: Judge,
        *,
        model: str,
        sha256: str,
        device: str,
        precision: str,
        restorer: Callable[[str], Restorer],
        by_evidence: bool = True,
    ) -> None:
        self.net = for_inference(net.to(device))
        self.model, self.sha256 = model, sha256
        self.device, self.precision = device, precision
        self.by_evidence = by_evidence
        self._load = restorer
        self._restorers: dict[str, Restorer] = {}
        self._loading = threading.Lock()

    @property
    def backend(self) -> str:
        """What computes the restorers: "torch", "onnx" or "openvino". The judge itself runs on torch."""
        return self.restorer(WITNESSES[0]).backend

    def judge(self, image: Image) -> dict[str, float]:
        """The probability of each finding; what `Restorer.restore` takes is judged."""
        return self._judge(to_picture(image).pixels)

    def _judge(self, pixels: Tensor) -> dict[str, float]:
        with torch.inference_mode():
            looks = self.net(pixels[None].to(self.device))
            if self.by_evidence:
                found = evidence(pixels, {task: witness(self.restorer(task)) for task in WITNESSES})
                looks = self.net.weigh(looks, found[None].to(self.device))
            probabilities = looks[0].sigmoid().cpu()
        if not probabilities.isfinite().all():
            raise FairweatherError(
                f"{self.model} gave a value that is not finite for this picture; report it"
            )
        return dict(zip(FINDINGS, probabilities.tolist(), strict=True))

    def restore(
        self,
        image: Image,
        *,
        strength: float = 1.0,
        tile: int | Literal["auto"] = "auto",
        depth: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        """Judge one picture and put right what is sure; a clear one comes back as it is.

        Arguments and errors as of `Restorer.restore`, but for batches: one picture at a time. The result also has
        `findings` and `steps`. There is no depth.
        """
        check_strength(strength)
        check_tile(tile)
        picture = to_picture(image)
        if self.by_evidence:
            for task in WITNESSES:  # loaded before the clock starts
                self.restorer(task)
        start = time.perf_counter()
        findings = self._judge(picture.pixels)
        steps = steps_for(findings)
        judged = time.perf_counter()
        for task in steps:  # loading does not count
            self.restorer(task)
        start += time.perf_counter() - judged
        after, tiles, backend = picture, 1, self.backend if self.by_evidence else "torch"
        notes = Notes()
        for number, task in enumerate(steps):
            done = self.restorer(task).restore(
                after,
                tile=tile,
                depth=False,
                progress=progress and _of_several(progress, number, len(steps)),
            )
            after, tiles, backend = done.image, max(tiles, done.tiles), done.backend
            notes.add(done.warnings, done.bf16_psnr)
        if after is not picture and strength != 1:
            after = with_pixels(picture, torch.lerp(picture.pixels, after.pixels, strength).clamp(0, 1))
        return Result(
            image=like(image, after),
            picture=after,
            findings=findings,
            steps=steps,
            model=self.model,
            task=self.task,
            weights_sha256=self.sha256,
            device=self.device,
            precision=self.precision,
            backend=backend,
            tiles=tiles,
            seconds=time.perf_counter() - start,
            bf16_psnr=notes.bf16_psnr,
            unchanged=are_equal(picture, after.pixels),
            warnings=tuple(notes.warnings),
        )

    def restorer(self, task: str) -> Restorer:
        """What puts the findings of a task right; loaded when it is first asked for."""
        with self._loading:
            if task not in self._restorers:
                self._restorers[task] = self._load(task)
            return self._restorers[task]

    def __repr__(self) -> str:
        return f"AutoRestorer({self.model}, weights {self.sha256[:12]}, {self.device}, {self.precision})"


def _of_several(progress: Callable[[int, int], None], number: int, steps: int) -> Callable[[int, int], None]:
    """Progress of one step, told as progress of them all."""
    return lambda done, total: progress(number * total + done, steps * total)
