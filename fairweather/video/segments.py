"""Restored frames encoded in segments, kept on the disk until all are there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairweather.errors import FairweatherError, PictureError
from fairweather.files import written_whole
from fairweather.video.formats import ENCODERS, pyav
from fairweather.video.reading import Frame, Look, reformatted


def pixel_format(encoder: str, seen: Look) -> str:
    """8 bits, or 10 of a source that has more than 8; chroma is halved, but for odd sizes of H.264 and HEVC."""
    odd = (seen.width | seen.height) & 1 and encoder in ("libx264", "libx265")
    eight = "yuv444p" if odd else "yuv420p"
    ten = f"{eight}10le"
    known = [known.name for known in pyav().Codec(encoder, "w").video_formats]
    return ten if seen.bits > 8 and ten in known else eight


def set_up(context: Any, seen: Look, *, encoder: str, crf: int | None) -> None:
    """Make an encoder's context that of a video; that of each segment and that of the whole are the same."""
    from av.codec.context import Flags

    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it else prints to the terminal
    context.width, context.height = seen.width, seen.height
    context.pix_fmt = pixel_format(encoder, seen)
    context.time_base, context.framerate = seen.time_base, seen.rate
    context.colorspace, context.color_range, context.color_primaries, context.color_trc = seen.colour
    if seen.aspect:
        context.sample_aspect_ratio = seen.aspect
    context.flags |= Flags.global_header
    context.options = {**ENCODERS[encoder].options, **({} if crf is None else {"crf": str(crf)})}


class Segment:
    """Frames being encoded, from a key frame on."""

    def __init__(self, seen: Look, *, encoder: str, crf: int | None, began: float) -> None:
        self.context = pyav().CodecContext.create(encoder, "w")
        set_up(self.context, seen, encoder=encoder, crf=crf)
        self.began = began
        self.pts: list[int] = []
        self.packets: list[Any] = []

    def add(self, rgb: Frame) -> None:
        frame = reformatted(rgb, self.context.pix_fmt)
        frame.pict_type = 0  # the encoder's choice, not the source's
        self.pts.append(frame.pts)
        self._encode(frame)

    def finished(self) -> dict[str, Tensor]:
        """Packets in order of decoding, with their times."""
        self._encode(None)
        pts = [packet.pts for packet in self.packets]
        if sorted(pts) != self.pts:
            raise FairweatherError(
                f"{self.context.name} gave {len(pts)} packets for {len(self.pts)} frames, or other times; report it"
            )
        return {
            "data": torch.frombuffer(bytearray().join(bytes(x) for x in self.packets), dtype=torch.uint8),
            "sizes": torch.tensor([packet.size for packet in self.packets]),
            "keys": torch.tensor([packet.is_keyframe for packet in self.packets]),
            "pts": torch.tensor(pts),
        }

    def _encode(self, frame: Frame | None) -> None:
        try:
            self.packets += self.context.encode(frame)
        except pyav().FFmpegError as error:
            size = f"{self.context.width}x{self.context.height}"
            raise PictureError(
                f"{self.context.name} cannot encode {size} pixels ({error.strerror}); choose another encoder"
            ) from None


class Parts:
    """The folder of segments beside a result. Each has a state beside it, with which the next one goes on."""

    def __init__(self, target: Path, key: str, *, resume: bool) -> None:
        self.folder = target.with_name(f".{target.name}.fairweather-parts")
        self.key = key
        self.count = 0
        while resume and self._key_of(self._file(self.count, "segment")) == key:
            self.count += 1
        if self.count and self._key_of(self._file(self.count - 1, "state")) != key:
            self.count = 0
        if not self.count:  # of another source, model or options
            self.remove()

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:05}.{kind}.safetensors"

    @staticmethod
    def _key_of(path: Path) -> str | None:
        try:
            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("key")
        except (SafetensorError, OSError):
            return None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """After the last segment; None if there is none."""
        if not self.count:
            return None
        with safe_open(self._file(self.count - 1, "state"), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118

    def add(self, segment: dict[str, Tensor], tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._write("state", tensors, {"key": self.key, "state": json.dumps(state)})
        self._write("segment", segment, {"key": self.key})
        self.count += 1
        if self.count > 1:  # with frames in it, it is not small
            self._file(self.count - 2, "state").unlink(missing_ok=True)

    def _write(self, kind: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        with written_whole(self._file(self.count, kind)) as part:
            save_file({name: x.contiguous() for name, x in tensors.items()}, part, metadata)

    def pts(self) -> list[int]:
        """Of all packets, in order of decoding."""
        found: list[int] = []
        for number in range(self.count):
            with safe_open(self._file(number, "segment"), framework="pt") as file:
                found += file.get_tensor("pts").tolist()
        return found

    def packets(self) -> Iterator[tuple[bytes, bool]]:
        """All packets, in order of decoding, and whether each is a key frame."""
        for number in range(self.count):
            with safe_open(self._file(number, "segment"), framework="pt") as file:
                data, sizes, keys = (file.get_tensor(name) for name in ("data", "sizes", "keys"))
            encoded, end = data.numpy().tobytes(), 0
            for size, key in zip(sizes.tolist(), keys.tolist(), strict=True):
                end += size
                yield encoded[end - size : end], key

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
