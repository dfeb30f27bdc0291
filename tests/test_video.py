"""Videos: every frame with its own time, all else of the file copied, pairs by time, resuming, and no flicker added."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tiny import Call
from torch import Tensor, nn

from fairweather.auto import AutoRestorer
from fairweather.errors import MissingExtraError, PictureError, UsageError
from fairweather.infrared import align
from fairweather.models.fusionnet import fusionnet_small
from fairweather.models.judge import FINDINGS, Judge
from fairweather.night import NightRestorer
from fairweather.pipeline import Restorer
from fairweather.video import (
    VideoResult,
    assembling,
    chosen_encoder,
    flicker,
    is_video,
    restore_video,
    written_suffix,
)
from fairweather.video.assembling import decoding_times
from fairweather.video.flicker import Steadied
from fairweather.video.reading import look, turn_of

WIDTH, HEIGHT, RATE = 64, 48, 24
TICKS = Fraction(1, 12288)
UNEVEN = (0, 500, 1500, 1800, 2600, 4000, 4640, 5000, 6000, 6400, 7000, 8000, 9000, 9100, 9900, 11000)
QUARTER = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]


def restorer(
    function: Callable[[Tensor], Tensor] = lambda x: x, task: str = "derain", **options: Any
) -> Restorer:
    how = {"model": "nafnet_tiny", "sha256": "0" * 64, "device": "cpu", "precision": "fp32"}
    return Restorer(Call(function), task=task, **(how | options))


def fusing() -> NightRestorer:
    """Cleans nothing, and fuses to the infrared picture's luma."""
    net = fusionnet_small()
    net.dense = Fused()  # type: ignore[assignment]
    return NightRestorer(
        net, restorer(), model="fusionnet_small", sha256="1" * 64, device="cpu", precision="fp32"
    )


class Fused(nn.Module):
    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return infrared


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scene(seed: int = 0, *, width: int = WIDTH + 64, height: int = HEIGHT) -> np.ndarray:
    """A smooth random picture, in [0, 1]."""
    coarse = torch.rand(1, 3, 6, 12, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return smooth[0].permute(1, 2, 0).numpy()


def panned(count: int) -> list[np.ndarray]:
    """A view that moves a pixel to the right in each frame."""
    return [scene()[:, at : at + WIDTH] for at in range(count)]


def write(
    name: str,
    frames: Sequence[np.ndarray] | None = None,
    *,
    pts: Sequence[int] | None = None,
    ticks: Fraction = TICKS,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    matrix: Sequence[int] | None = None,
    sound: bool = False,
    colour: tuple[int, int, int, int] | None = None,
    metadata: dict[str, str] | None = None,
    chapters: bool = False,
    aspect: Fraction | None = None,
) -> Path:
    """A video of floats in [0, 1] (h, w, 3), or of 16-bit counts (h, w)."""
    frames = panned(16) if frames is None else frames
    pts = [int(at / RATE / ticks) for at in range(len(frames))] if pts is None else pts
    with av.open(name, "w") as out:
        stream = out.add_stream(codec, rate=RATE, time_base=ticks)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = {"libx264": {"crf": "4"}, "libvpx-vp9": {"crf": "4"}}.get(codec, {})
        if matrix:
            stream.set_display_matrix(matrix)
        if aspect:
            stream.sample_aspect_ratio = aspect
        if colour:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = colour
        out.metadata.update(metadata or {})
        if chapters:
            times = {"time_base": Fraction(1, 1000), "metadata": {"title": "First"}}
            out.set_chapters([{"id": 1, "start": 0, "end": 300, **times}])
        audio = out.add_stream("aac", rate=44100) if sound else None
        for frame, at in zip(frames, pts, strict=True):
            if frame.dtype == np.uint16:
                picture = av.VideoFrame.from_ndarray(frame, "gray16le")
            else:
                eight = np.ascontiguousarray((frame * 255).round().astype(np.uint8))
                picture = av.VideoFrame.from_ndarray(eight, "rgb24").reformat(format=pixels)
            picture.pts, picture.time_base = at, ticks
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        if audio:
            for at in range(0, int(44100 * pts[-1] * ticks), 1024):
                wave = 0.3 * np.sin((np.arange(1024) + at) * 2 * np.pi * 440 / 44100)
                piece = av.AudioFrame.from_ndarray(np.stack([wave] * 2).astype(np.float32), "fltp", "stereo")
                piece.sample_rate, piece.pts, piece.time_base = 44100, at, Fraction(1, 44100)
                out.mux(audio.encode(piece))
            out.mux(audio.encode(None))
    return Path(name)


def frames_of(path: str | Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times_of(path: str | Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames_of(path)]


def pictures_of(path: str | Path) -> np.ndarray:
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames_of(path)]).astype(int)


def packets_of(path: str | Path, kind: str) -> list[tuple[int | None, str]]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        packets = [packet for packet in container.demux(stream) if packet.size]
        return [(packet.pts, hashlib.sha256(bytes(packet)).hexdigest()) for packet in packets]


def restored(
    source: str | Path, target: str | Path = "out.mp4", net: Any = None, **options: Any
) -> VideoResult:
    return restore_video(Path(source), Path(target), net or restorer(), **options)


def names() -> set[str]:
    return {path.name for path in Path().iterdir()}


# What is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"pts": UNEVEN}),
        ("late.mp4", {"pts": [2000 * 12 + at for at in UNEVEN]}),
        ("a.mov", {"ticks": Fraction(1001, 30000), "pts": [*range(16)]}),
        ("a.mkv", {"ticks": Fraction(1, 1000), "pts": [at // 10 for at in UNEVEN]}),
        ("a.webm", {"ticks": Fraction(1, 1000), "codec": "libvpx-vp9", "pts": [at // 10 for at in UNEVEN]}),
    ],
)
def test_every_frame_keeps_its_time(source: str, options: dict[str, Any]) -> None:
    write(source, **options)
    target = f"out{Path(source).suffix}"
    result = restored(source, target, segment_seconds=0.2)
    assert times_of(target) == times_of(source)
    assert len(packets_of(target, "video")) == result.frames == 16
    assert result.warnings == ()


def test_each_segment_may_hold_a_single_frame() -> None:
    write("a.mp4", pts=UNEVEN)
    restored("a.mp4", segment_seconds=1e-9)
    assert times_of("out.mp4") == times_of("a.mp4")


def test_sound_is_copied_packet_for_packet() -> None:
    write("a.mp4", sound=True)
    restored("a.mp4", segment_seconds=0.2)
    before = packets_of("a.mp4", "audio")
    assert len(before) > 20
    assert packets_of("out.mp4", "audio") == before


def test_subtitles_attachments_chapters_and_metadata_are_copied() -> None:
    write("base.mkv", ticks=Fraction(1, 1000))
    with av.open("base.mkv") as source, av.open("a.mkv", "w") as out:
        stream = source.streams.video[0]
        picture = out.add_stream_from_template(stream)
        text = out.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        text.metadata["language"] = "spa"
        out.add_attachment("font.ttf", "application/x-truetype-font", b"glyphs")
        out.metadata["title"] = "A drive"
        times = {"time_base": Fraction(1, 1000), "metadata": {"title": "First"}}
        out.set_chapters([{"id": 1, "start": 0, "end": 300, **times}])
        for at in (100, 400):
            packet = av.Packet(f"said at {at}".encode())
            packet.pts = packet.dts = at
            packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), text
            out.mux(packet)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = picture
                out.mux(packet)
    result = restored("a.mkv", "out.mkv")
    assert result.warnings == ()
    assert packets_of("out.mkv", "subtitle") == packets_of("a.mkv", "subtitle")
    with av.open("out.mkv") as made:
        assert made.metadata["title"] == "A drive"
        assert made.streams[1].language == "spa"
        assert made.streams[2].data == b"glyphs"
        assert [chapter["metadata"]["title"] for chapter in made.chapters()] == ["First"]

    result = restored("a.mkv", "out.mp4")
    assert len(result.warnings) == 2
    refused = "not in the result, since .mp4 does not take it: "
    assert result.warnings[0] == f"{refused}subtitle stream 1 (srt)"
    assert result.warnings[1] == f"{refused}attachment stream 2 (font.ttf)"


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_chapters_and_time_codes_are_not_doubled(suffix: str) -> None:
    """Both lie in streams of their own in these containers, which are made from the metadata."""
    write(f"a{suffix}", chapters=True, metadata={"timecode": "01:02:03:04"}, sound=True)
    result = restored(f"a{suffix}", f"out{suffix}")
    assert result.warnings == ()
    with av.open(f"a{suffix}") as before, av.open(f"out{suffix}") as after:
        assert [stream.type for stream in after.streams] == [stream.type for stream in before.streams]
        assert [c["metadata"] for c in after.chapters()] == [{"title": "First"}]
        assert [s.metadata.get("timecode") for s in after.streams if s.type == "data"] == [
            s.metadata.get("timecode") for s in before.streams if s.type == "data"
        ]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_is_kept_and_the_network_sees_the_picture_upright(suffix: str) -> None:
    def darker_at_the_top(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., : x.shape[-2] // 4, :] = 0
        return x

    ticks = Fraction(1, 1000) if suffix == ".mkv" else TICKS
    write(f"a{suffix}", [np.full((HEIGHT, WIDTH, 3), 0.8)] * 4, matrix=QUARTER, ticks=ticks)
    restored(f"a{suffix}", f"out{suffix}", restorer(darker_at_the_top))
    before, after = frames_of(f"a{suffix}")[0], frames_of(f"out{suffix}")[0]
    assert before.rotation == after.rotation == -90
    assert bytes(before.side_data["DISPLAYMATRIX"]) == bytes(after.side_data["DISPLAYMATRIX"])
    picture = after.to_ndarray(format="rgb24")
    assert (
        picture[:, : WIDTH // 4 - 2].max() < 30
    )  # turned clockwise, the left side of the coded picture is up
    assert picture[:, WIDTH // 4 + 2 :].min() > 180


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: x.rot90(-1, (1, 2))),  # clockwise
        ((-1, 0, 0, -1), lambda x: x.rot90(2, (1, 2))),
        ((0, -1, 1, 0), lambda x: x.rot90(1, (1, 2))),
        ((-1, 0, 0, 1), lambda x: x.flip(2)),
        ((0, 1, 1, 0), lambda x: x.mT),
    ],
)
def test_what_is_turned_upright_can_be_turned_back(
    sides: tuple[int, ...], expected: Callable[[Tensor], Tensor]
) -> None:
    a, b, c, d = sides
    turn = turn_of([a, b, 0, c, d, 0, 0, 0, 1 << 30])
    x = torch.rand(3, 4, 5)
    assert torch.equal(turn.upright(x), expected(x))
    assert torch.equal(turn.back(turn.upright(x)), x)


@pytest.mark.parametrize("colour", [(1, 1, 1, 1), (1, 2, 1, 1), (9, 1, 9, 14)])
def test_colour_tags_are_kept(colour: tuple[int, int, int, int]) -> None:
    write("a.mp4", colour=colour)
    restored("a.mp4")
    frame = frames_of("out.mp4")[0]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == colour


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
def test_what_a_network_leaves_alone_comes_back_as_it_was(pixels: str) -> None:
    write("a.mkv", codec="ffv1", pixels=pixels, ticks=Fraction(1, 1000))
    restored("a.mkv", "out.mkv", encoder="ffv1")
    before, after = frames_of("a.mkv"), frames_of("out.mkv")
    assert {frame.format.name for frame in after} == {pixels}
    for one, two in zip(before, after, strict=True):
        kind = np.uint8 if pixels == "yuv420p" else np.uint16
        lumas = [np.frombuffer(frame.planes[0], kind).astype(int) for frame in (one, two)]
        assert abs(lumas[0] - lumas[1]).max() <= (1 if kind is np.uint8 else 4)


def test_rgb_sources_keep_their_colours_and_are_tagged_as_players_expect() -> None:
    red = np.broadcast_to(np.array([0.8, 0.2, 0.1]), (HEIGHT, WIDTH, 3))
    write("a.mkv", [red] * 2, codec="ffv1", pixels="bgr0", ticks=Fraction(1, 1000))
    restored("a.mkv", "out.mp4")
    frame = frames_of("out.mp4")[0]
    assert (frame.colorspace, frame.color_range) == (1, 1)
    assert abs(frame.to_ndarray(format="rgb24").astype(int) - (204, 51, 26)).max() <= 4


def test_the_shape_of_pixels_is_kept_and_the_encoder_chooses_its_key_frames() -> None:
    write("a.mkv", codec="mjpeg", pixels="yuvj420p", ticks=Fraction(1, 1000), aspect=Fraction(4, 3))
    restored("a.mkv", "out.mp4")
    with av.open("out.mp4") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert [packet.is_keyframe for packet in container.demux(video=0) if packet.size].count(True) == 1


def test_odd_sizes_stay() -> None:
    write("a.mkv", [frame[:47, :63] for frame in panned(4)], codec="ffv1", ticks=Fraction(1, 1000))
    result = restored("a.mkv", "out.mp4")
    assert (result.width, result.height) == (63, 47)
    assert pictures_of("out.mp4").shape == (4, 47, 63, 3)


def test_the_restored_pictures_are_what_is_written() -> None:
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.2)] * 3)
    restored("a.mp4", net=restorer(lambda x: 1 - x))
    assert abs(pictures_of("out.mp4") - 204).max() <= 4


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video at all " * 50,
        b"#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",  # lists that would open other files
        b"ffconcat version 1.0\nfile secret.mp4\n",
    ],
)
def test_what_is_no_video_is_one_line_and_leaves_nothing(content: bytes) -> None:
    write("secret.mp4")
    Path("a.mp4").write_bytes(content)
    with pytest.raises(PictureError, match=r"^a\.mp4: no video that can be read \(.*\)$"):
        restored("a.mp4")
    assert names() == {"a.mp4", "secret.mp4"}
    assert Path("a.mp4").read_bytes() == content


def test_a_missing_video_is_one_line() -> None:
    with pytest.raises(PictureError, match=r"^a\.mp4: no such file$"):
        restored("a.mp4")


def test_sound_alone_is_no_video() -> None:
    write("a.mp4", sound=True)
    with av.open("a.mp4") as source, av.open("b.mp4", "w") as out:
        copy = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    with pytest.raises(PictureError, match="holds no video"):
        restored("b.mp4")


def test_damage_in_the_middle_is_told_and_the_rest_restored() -> None:
    write("a.mp4", panned(48), codec="mjpeg", pixels="yuvj420p")
    before = times_of("a.mp4")
    with av.open("a.mp4") as container:
        packet = [*container.demux(video=0)][20]
        place, size = packet.pos, packet.size
    data = bytearray(Path("a.mp4").read_bytes())
    data[place : place + size] = bytes(size)
    Path("a.mp4").write_bytes(data)
    result = restored("a.mp4")
    assert result.frames == 47
    assert result.warnings[0] == "a.mp4: 1 damaged packets could not be decoded"
    assert times_of("out.mp4") == before[:20] + before[21:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "a.mp4"}, "would overwrite an input"),
        ({"target": "out.avi"}, "we write videos as .mp4, .m4v, .mov, .mkv, .webm"),
        ({"target": "out.webm", "encoder": "libx264"}, ".webm files do not take libx264"),
        ({"encoder": "libx26"}, "did you mean 'libx26[45]'"),
        ({"target": "out.mkv", "encoder": "ffv1", "crf": 3}, "lossless"),
        ({"crf": 64}, "expected 0 to 63"),
        ({"infrared": Path("a.mp4")}, "goes with night"),
        ({"strength": 2}, "strength is 2"),
        ({"tile": 5}, "tile is 5"),
        ({"segment_seconds": 0}, "segment_seconds"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_work(options: dict[str, Any], message: str) -> None:
    write("a.mp4")
    before = Path("a.mp4").read_bytes()
    with pytest.raises(UsageError, match=message):
        restored("a.mp4", **options)
    assert names() == {"a.mp4"}
    assert Path("a.mp4").read_bytes() == before


def test_a_picture_too_large_is_refused() -> None:
    write("a.mp4")
    with pytest.raises(PictureError, match=r"64x48 pixels, more than 0\.003 megapixels"):
        restored("a.mp4", max_megapixels=0.003)


def test_a_result_that_cannot_be_written_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.mp4")
    Path("out.mp4").write_bytes(b"earlier")

    def full(*args: Any) -> None:
        raise av.error.OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(assembling, "_interleave", full)
        with pytest.raises(PictureError, match=r"^out\.mp4: cannot be written \(No space left on device\)$"):
            restored("a.mp4")
    assert Path("out.mp4").read_bytes() == b"earlier"
    assert names() == {"a.mp4", "out.mp4", ".out.mp4.fairweather-parts"}
    assert restored("a.mp4").resumed == 16
    assert times_of("out.mp4") == times_of("a.mp4")
    assert names() == {"a.mp4", "out.mp4"}


# Resuming ----------------------------------------------------------------------------------------------------------


EXACT = {"encoder": "ffv1", "segment_seconds": 0.2}
"""libx264 does not give the same bits of the same pictures each time."""


def interrupted(after: int, **options: Any) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 16
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restored("a.mp4", "out.mkv", progress=stop, **EXACT, **options)


def test_a_resumed_video_equals_one_made_in_one_go() -> None:
    frames = [np.clip(frame + 0.01 * (at % 2), 0, 1) for at, frame in enumerate(panned(16))]
    write("a.mp4", frames, ticks=Fraction(1, 1000))
    gains = restorer(lambda x: (x * (0.5 + x.mean())).clamp(0, 1))
    whole = restored("a.mp4", "whole.mkv", gains, **EXACT)
    interrupted(12, net=gains)
    assert names() == {"a.mp4", "whole.mkv", ".out.mkv.fairweather-parts"}
    seen: list[int] = []
    result = restored("a.mp4", "out.mkv", gains, progress=lambda done, total: seen.append(done), **EXACT)
    assert result.resumed == 10
    assert seen == [*range(10, 17)]
    assert packets_of("out.mkv", "video") == packets_of("whole.mkv", "video")
    assert np.array_equal(pictures_of("out.mkv"), pictures_of("whole.mkv"))
    assert result.flicker == whole.flicker is not None
    assert names() == {"a.mp4", "whole.mkv", "out.mkv"}


@pytest.mark.parametrize("change", ["strength", "encoder", "source", "resume", "weights", "ensemble"])
def test_segments_of_another_run_are_not_used(change: str) -> None:
    write("a.mp4")
    interrupted(12)
    options: dict[str, Any] = {
        "strength": {"strength": 0.5},
        "encoder": {"encoder": "libx264"},
        "resume": {"resume": False},
        "weights": {"net": restorer(lambda x: x, sha256="2" * 64)},
        "ensemble": {"net": restorer(lambda x: x, ensemble=2)},
    }.get(change, {})
    if change == "source":
        write("a.mp4", panned(17)[1:])

    def nothing_left(done: int, total: int) -> None:
        assert done > 1 or ".out.mkv.fairweather-parts" not in names()

    assert restored("a.mp4", "out.mkv", progress=nothing_left, **(EXACT | options)).resumed == 0
    assert names() == {"a.mp4", "out.mkv"}


@pytest.mark.parametrize("kind", ["segment", "state"])
def test_a_damaged_segment_is_made_again(kind: str) -> None:
    write("a.mp4")
    interrupted(12)
    (file,) = sorted(Path(".out.mkv.fairweather-parts").glob(f"*.{kind}.safetensors"))[-1:]
    file.write_bytes(b"damaged")
    assert restored("a.mp4", "out.mkv", **EXACT).resumed == {"segment": 0, "state": 0}[kind]
    assert len(times_of("out.mkv")) == 16


# Infrared ----------------------------------------------------------------------------------------------------------


def grey(value: float) -> np.ndarray:
    """A grey ramp around a level, as an infrared frame."""
    ramp = np.linspace(-0.1, 0.1, WIDTH)[None, :, None]
    return np.broadcast_to(value + ramp, (HEIGHT, WIDTH, 3)).clip(0, 1)


def night(
    *, visible: Sequence[int] | None = None, infrared: Sequence[int] | None = None, **options: Any
) -> tuple[VideoResult, list[float]]:
    """A bright video with a dark infrared one, frames at these 24ths of a second; what came of it, and its levels."""
    visible, infrared = ([*range(16)] if at is None else at for at in (visible, infrared))
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.8)] * len(visible), pts=[512 * at for at in visible])
    write("ir.mp4", [grey(0.3)] * len(infrared), pts=[512 * at for at in infrared])
    result = restored("a.mp4", net=fusing(), infrared=Path("ir.mp4"), **options)
    assert times_of("out.mp4") == times_of("a.mp4")
    return result, [float(picture.mean()) / 255 for picture in pictures_of("out.mp4")]


def counted(result: VideoResult) -> tuple[int, int, int]:
    return result.fused, result.held, result.alone


def test_pairs_of_equal_times_are_fused() -> None:
    result, levels = night()
    assert counted(result) == (16, 0, 0)
    assert np.allclose(levels, 0.3, atol=0.02)
    assert result.infrared_share == pytest.approx(1, abs=0.02)
    assert result.task == "night"
    assert "16 fused, 0 held, 0 alone" in result.told()
    assert not [said for said in result.warnings if "partner" in said]


def test_a_slower_infrared_camera_serves_several_frames() -> None:
    result, levels = night(infrared=[0, 3, 6, 9, 12, 15])
    assert counted(result) == (16, 0, 0)
    assert np.allclose(levels, 0.3, atol=0.02)


def test_a_faster_infrared_camera_is_thinned_out() -> None:
    assert counted(night(visible=[0, 4, 8, 12])[0]) == (4, 0, 0)


def test_missing_infrared_frames_are_held_for_a_moment_and_then_left_out() -> None:
    result, levels = night(infrared=[0, 1, 2, 3, 4, 12, 13, 14, 15])
    assert counted(result) == (9, 4, 3)  # 0.2 s are 4.8 frames
    assert np.allclose(levels[:9] + levels[12:], 0.3, atol=0.03)
    said = "7 of 16 frames have no infrared partner: 4 were fused with the last one before, 3 cleaned alone"
    assert said in result.warnings


@pytest.mark.parametrize(
    ("options", "counts", "said"),
    [
        (
            {"infrared": [*range(6)]},
            (6, 4, 6),
            "runs from 0.00 to 0.21 s, the visible one from 0.00 to 0.62 s",
        ),
        (
            {"infrared": [*range(6, 16)]},
            (10, 0, 6),
            "runs from 0.25 to 0.62 s, the visible one from 0.00 to 0.62",
        ),
        (
            {"visible": [*range(6)]},
            (6, 0, 0),
            "runs from 0.00 to 0.62 s, the visible one from 0.00 to 0.21 s",
        ),
        (
            {"visible": [0, 1, 2, 3, 12, 13, 14, 15]},
            (8, 0, 0),
            "8 infrared frames lie in gaps of the visible",
        ),
    ],
)
def test_videos_of_unequal_length_lose_no_frame_and_say_so(
    options: dict[str, Any], counts: tuple[int, int, int], said: str
) -> None:
    result, _ = night(**options)
    assert counted(result) == counts
    assert sum(said in line for line in result.warnings) == 1


def test_videos_that_do_not_overlap_are_refused() -> None:
    with pytest.raises(
        PictureError,
        match=r"ir.mp4: runs from 10.00 to 10.62 s and a.mp4 from 0.00 to 0.62 s.*--ir-offset .*-10.00",
    ):
        night(infrared=[*range(240, 256)])
    assert names() == {"a.mp4", "ir.mp4"}
    assert counted(night(infrared=[*range(240, 256)], infrared_offset=-10)[0]) == (16, 0, 0)


def test_a_blank_infrared_frame_counts_as_missing() -> None:
    """A thermal camera closes its shutter now and then."""
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.8)] * 6)
    blank = np.full((HEIGHT, WIDTH, 3), 0.5)
    write("ir.mp4", [grey(0.3), grey(0.3), blank, blank, grey(0.3), grey(0.3)])
    result = restored("a.mp4", net=fusing(), infrared=Path("ir.mp4"))
    assert counted(result) == (4, 2, 0)
    assert result.warnings[-1] == (
        "of 2 of 6 frames the infrared partner holds one value only: 2 were fused with the last one before, 0 cleaned "
        "alone"
    )


def test_a_blank_infrared_frame_of_a_slower_camera_takes_no_later_one_with_it() -> None:
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.8)] * 12)
    blank = np.full((HEIGHT, WIDTH, 3), 0.5)
    write("ir.mp4", [grey(0.3), blank, grey(0.3)], pts=[512 * at + 100 for at in (1, 5, 9)])
    result = restored("a.mp4", net=fusing(), infrared=Path("ir.mp4"))
    assert counted(result) == (8, 4, 0)


def test_a_picture_in_place_of_a_video_is_refused() -> None:
    write("a.mp4")
    Path("ir.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"ir.png: is a picture; give a video"):
        restored("a.mp4", net=fusing(), infrared=Path("ir.png"))


def test_files_may_be_named_by_strings() -> None:
    write("a.mp4")
    write("ir.mp4", [grey(0.3)] * 16)
    assert restore_video("a.mp4", "out.mp4", fusing(), infrared="ir.mp4", shift=(0, 0)).fused == 16


def test_a_coloured_infrared_video_is_refused() -> None:
    write("a.mp4")
    with pytest.raises(PictureError, match=r"ir\.mkv: is in colours"):
        restored("a.mp4", net=fusing(), infrared=write("ir.mkv", codec="ffv1"))


def test_sizes_that_cannot_match_are_refused() -> None:
    write("a.mp4")
    write("ir.mp4", [grey(0.3)[:, :32]] * 16)
    with pytest.raises(PictureError, match=r"ir\.mp4: the infrared picture has 32x48 pixels"):
        restored("a.mp4", net=fusing(), infrared=Path("ir.mp4"))
    assert names() == {"a.mp4", "ir.mp4"}


def test_night_without_infrared_cleans_and_says_so() -> None:
    write("a.mp4")
    result = restored("a.mp4", net=fusing())
    assert result.warnings == ("no infrared video: cleaned, not fused",)
    assert counted(result) == (0, 0, 0)
    assert result.infrared_share is None


def test_the_stretch_of_raw_counts_does_not_jump_with_a_hot_spot() -> None:
    """Of a single picture the hottest becomes white; in a video all else would grow dark for that moment."""
    base = (7000 + 400 * scene(width=WIDTH)[..., 0]).astype(np.uint16)
    hot = base.copy()
    hot[:8, :32] = 9000
    write("ir.mkv", [base] * 8 + [hot] * 2 + [base] * 6, codec="ffv1", pixels="gray16le")
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.5)] * 16)
    result = restored("a.mp4", net=fusing(), infrared=Path("ir.mkv"))
    assert counted(result) == (16, 0, 0)
    levels = pictures_of("out.mp4")[:, 12:].mean((1, 2, 3))
    assert levels.std() < 2
    assert levels.mean() > 90


def test_raw_counts_may_jump_when_the_sensor_is_adjusted() -> None:
    counts = [
        (7000 + 3000 * (at >= 8) + 400 * scene(width=WIDTH)[..., 0]).astype(np.uint16) for at in range(16)
    ]
    write("ir.mkv", counts, codec="ffv1", pixels="gray16le")
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.5)] * 16)
    result = restored("a.mp4", net=fusing(), infrared=Path("ir.mkv"))
    assert counted(result) == (16, 0, 0)
    spread = pictures_of("out.mp4").std((1, 2, 3))
    assert spread.min() > 0.9 * spread.max()


def test_raw_counts_of_a_large_range_are_followed_only_slowly() -> None:
    """Past a quarter of the scale a single picture is not stretched; a video goes on as it began."""
    base = (7000 + 400 * scene(width=WIDTH)[..., 0]).astype(np.uint16)
    hot = base.copy()
    hot[:8] = 60000
    write("ir.mkv", [base] * 8 + [hot] * 2 + [base] * 6, codec="ffv1", pixels="gray16le")
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.5)] * 16)
    restored("a.mp4", net=fusing(), infrared=Path("ir.mkv"))
    levels = pictures_of("out.mp4")[:, 12:].mean((1, 2, 3))
    assert levels.mean() > 90
    assert levels.std() < 5


def test_the_shift_of_the_infrared_video_is_measured_once_and_moved_back() -> None:
    def view(at: int) -> np.ndarray:
        coarse = torch.rand(1, 1, 30, 60, generator=torch.Generator().manual_seed(3))
        wide = nn.functional.interpolate(coarse, (150, 300), mode="bicubic").clamp(0, 1)[0, 0].numpy()
        return np.repeat(wide[20:140, at : at + 160, None], 3, 2)

    write("a.mp4", [view(20 + at) for at in range(8)])
    write("ir.mp4", [1 - view(16 + at) for at in range(8)])
    result = restored("a.mp4", net=fusing(), infrared=Path("ir.mp4"))
    (said,) = [line for line in result.warnings if "it was moved back" in line]
    assert said.startswith("the infrared video lay 4.0 pixels to the right and 0.0")
    inside = pictures_of("out.mp4")[:, 8:-8, 8:-8] / 255
    expected = np.stack([1 - view(20 + at) for at in range(8)])[:, 8:-8, 8:-8]
    assert abs(inside - expected).mean() < 0.02


def test_a_known_shift_is_moved_back_as_a_measured_one() -> None:
    wide = torch.from_numpy(scene(width=220, height=150)).mean(-1)[None]
    visible, infrared = wide[:, 20:140, 23:193].expand(3, -1, -1), 1 - wide[:, 20:140, 20:190]
    known = align(visible, infrared, shift=(3.0, 0.0))
    torch.testing.assert_close(known.infrared[:, 1:-1, 1:-4], 1 - visible[:1, 1:-1, 1:-4])
    assert known.valid == pytest.approx(167 / 170)
    assert torch.equal(align(visible, infrared, shift=(0.0, 0.0)).infrared, infrared)


def test_a_resumed_fusion_equals_one_made_in_one_go() -> None:
    frames = [np.full((HEIGHT, WIDTH, 3), 0.8)] * 16
    write("a.mp4", frames)
    there = [*range(9), 12, 13, 14, 15]
    counts = [(7000 + 400 * scene(at, width=WIDTH)[..., 0] + 20 * at).astype(np.uint16) for at in there]
    pts = [int(1000 * at / RATE) for at in there]
    write("ir.mkv", counts, pts=pts, codec="ffv1", pixels="gray16le", ticks=Fraction(1, 1000))
    options = {"net": fusing(), "infrared": Path("ir.mkv")}
    whole = restored("a.mp4", "whole.mkv", **EXACT, **options)
    interrupted(13, **options)
    result = restored("a.mp4", "out.mkv", **EXACT, **options)
    assert result.resumed == 10
    assert counted(result) == counted(whole)
    assert result.infrared_share == whole.infrared_share
    assert result.warnings == whole.warnings
    assert packets_of("out.mkv", "video") == packets_of("whole.mkv", "video")


# Flicker -----------------------------------------------------------------------------------------------------------


def steadied(
    net: Callable[[Tensor, int], Tensor], frames: Sequence[np.ndarray] | None = None
) -> tuple[Steadied, list[Tensor]]:
    state = Steadied()
    done = []
    for at, frame in enumerate(frames if frames is not None else panned(16)):
        degraded = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).contiguous()
        done.append(state.next(degraded, net(degraded.clone(), at), at / RATE))
    return state, done


def raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure only."""
    monkeypatch.setattr(flicker, "TONE_SECONDS", 1e-9)
    monkeypatch.setattr(flicker, "MOST_HELD", 0.0)


def test_what_is_left_alone_flickers_as_its_input() -> None:
    state, done = steadied(lambda x, at: x)
    assert state.flicker == pytest.approx(1, abs=1e-3)
    for frame, before in zip(done, panned(16), strict=True):
        torch.testing.assert_close(frame, torch.from_numpy(before.copy()).permute(2, 0, 1), atol=1e-5, rtol=0)


def flashing(x: Tensor, at: int) -> Tensor:
    return (x * (0.9 + 0.1 * (at % 2))).clamp(0, 1)


def test_flicker_of_brightness_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    raw(monkeypatch)
    state, _ = steadied(flashing)
    assert state.flicker is not None
    assert state.flicker > 5


def test_flicker_of_brightness_is_smoothed() -> None:
    state, done = steadied(flashing)
    assert state.flicker is not None
    assert state.flicker < 1.05
    means = torch.stack([frame.mean() / x.mean() for frame, x in zip(done, panned(16), strict=True)])
    assert (means[1:] - means[:-1]).abs().max() < 0.01  # it was 0.1


def test_flicker_of_places_is_held_to_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = [
        np.clip(frame + np.random.default_rng(at).normal(0, 0.01, frame.shape), 0, 1)
        for at, frame in enumerate([panned(1)[0]] * 12)
    ]
    frames = [frame.astype(np.float32) for frame in frames]

    def noisy(x: Tensor, at: int) -> Tensor:
        return (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(0, 1)

    held = steadied(noisy, frames)[0].flicker
    raw(monkeypatch)
    measured = steadied(noisy, frames)[0].flicker
    assert held is not None
    assert measured is not None
    assert held < 1.05 < 1.5 < measured


def in_the_dark(
    heat: Sequence[np.ndarray], *, noise: float = 0.004
) -> tuple[VideoResult, np.ndarray, np.ndarray]:
    """A dark visible video fused to an infrared one, both with noise; the result, its frames and the infrared ones."""
    random = np.random.default_rng(0)
    dark = 0.2 * scene(width=heat[0].shape[1], height=heat[0].shape[0])
    frames = [(dark + random.normal(0, 0.004, dark.shape)).clip(0, 1) for _ in heat]
    write("a.mkv", frames, codec="ffv1", pixels="yuv444p", ticks=Fraction(1, 1000))
    noisy = [(each[..., None] + random.normal(0, noise, (*each.shape, 1))).clip(0, 1) for each in heat]
    write(
        "ir.mkv",
        [each.repeat(3, 2) for each in noisy],
        codec="ffv1",
        pixels="yuv444p",
        ticks=Fraction(1, 1000),
    )
    result = restored("a.mkv", "out.mkv", fusing(), encoder="ffv1", infrared=Path("ir.mkv"), shift=(0.0, 0.0))
    assert result.fused == len(heat)
    return result, pictures_of("out.mkv").mean(-1), 255 * np.stack(noisy)[..., 0]


def test_what_the_infrared_alone_sees_moves_without_a_trail() -> None:
    heat = [0.5 * scene(width=160, height=120).mean(-1) for _ in range(10)]
    for at, frame in enumerate(heat):
        frame[40:80, 20 + 3 * at : 30 + 3 * at] = 0.95  # somebody
        frame[20:22, 120 - at : 122 - at] = 0.95  # far away
    result, seen, expected = in_the_dark(heat)
    for at in range(1, 10):
        for place in (
            (slice(40, 80), slice(14 + 3 * at, 36 + 3 * at)),
            (slice(19, 23), slice(116 - at, 126 - at)),
        ):
            assert abs(seen[at][place] - expected[at][place]).mean() < 4
    assert result.flicker is not None
    assert result.flicker < 1.05


def test_the_infrared_view_of_a_driving_camera_stays_sharp() -> None:
    wide = torch.from_numpy(np.ascontiguousarray(scene(3, width=60, height=45).mean(-1)))[None, None]
    grain = torch.rand(1, 1, 45, 60, generator=torch.Generator().manual_seed(1))
    view = nn.functional.interpolate((wide + grain) / 2, (480, 640), mode="bicubic").clamp(0, 1)
    heat = []
    for at in range(10):
        y, x = (round(side / 2 * (1 - 0.99**at)) for side in (480, 640))
        inside = view[..., y : 480 - y, x : 640 - x]
        heat.append(nn.functional.interpolate(inside, (120, 160), mode="area")[0, 0].numpy())
    _, seen, expected = in_the_dark(heat)
    edges = abs(np.diff(expected[-1], axis=1)) > 8
    assert edges.mean() > 0.05
    assert abs(seen[-1] - expected[-1])[:, 1:][edges].mean() < 4


def test_an_infrared_video_of_another_view_is_refused_and_a_known_shift_is_taken() -> None:
    random = np.random.default_rng(0)
    for name, picture in (("a.mkv", scene(width=160, height=120)), ("ir.mkv", random.random((120, 160, 1)))):
        write(name, [picture * np.ones(3)] * 3, codec="ffv1", pixels="yuv444p")
    with pytest.raises(
        PictureError, match=r"ir\.mkv: the infrared picture seems to show another view; if it"
    ):
        restored("a.mkv", "out.mkv", fusing(), encoder="ffv1", infrared=Path("ir.mkv"))
    result = restored("a.mkv", "out.mkv", fusing(), encoder="ffv1", infrared=Path("ir.mkv"), shift=(2.0, 0.0))
    assert result.fused == 3
    assert "the infrared video lay 2.0 pixels to the right and 0.0 up; it was moved back" in result.warnings


@pytest.mark.parametrize("noise", [2, 6])
def test_noise_of_the_infrared_is_still_held(noise: float) -> None:
    result, seen, expected = in_the_dark([0.5 * scene(width=160, height=120).mean(-1)] * 8, noise=noise / 255)
    assert abs(np.diff(seen[2:], axis=0)).mean() < 0.5 * abs(np.diff(expected[2:], axis=0)).mean()
    assert result.flicker is not None


def test_frames_with_and_without_infrared_are_not_mixed() -> None:
    """Area by area they would show as a mosaic."""
    visible = torch.from_numpy(scene()).permute(2, 0, 1).contiguous()
    warm = 1 - visible.mean(0, keepdim=True)
    state = Steadied()
    for at in range(9):
        infrared = None if 3 <= at < 6 else warm
        restored = (visible if infrared is None else infrared).expand(3, -1, -1).clone()
        torch.testing.assert_close(state.next(visible, restored.clone(), at / RATE, infrared), restored)


def test_a_cut_begins_anew() -> None:
    """The second scene keeps its own brightness: nothing of the first one is carried over."""
    frames = [frame.copy() for frame in panned(4)]
    frames += [1 - frame for frame in frames]
    for frame in frames:
        frame[HEIGHT // 2 :] = 0.5  # the same in both
    _, done = steadied(lambda x, at: x * (0.5 if at >= 4 else 1.0), frames)
    torch.testing.assert_close(done[4], torch.from_numpy(frames[4].copy()).permute(2, 0, 1) * 0.5)


def test_a_slow_change_of_light_is_followed() -> None:
    frames = [panned(1)[0] * (0.5 + 0.02 * at) for at in range(16)]
    state, done = steadied(lambda x, at: x, frames)
    torch.testing.assert_close(
        done[-1], torch.from_numpy(frames[-1].copy()).permute(2, 0, 1), atol=1e-4, rtol=0
    )
    assert state.flicker == pytest.approx(1, abs=1e-3)


def test_the_flicker_of_a_video_is_reported_and_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.mp4")
    assert restored("a.mp4").flicker == pytest.approx(1, abs=1e-3)
    raw(monkeypatch)
    count = iter(range(100))
    result = restored("a.mp4", net=restorer(lambda x: flashing(x, next(count))))
    assert result.flicker is not None
    assert result.flicker > 2
    assert result.warnings[-1].startswith("flickers: static areas change")


def test_a_single_frame_has_no_flicker() -> None:
    write("a.mp4", panned(1))
    result = restored("a.mp4")
    assert (result.frames, result.flicker) == (1, None)


# The rest ----------------------------------------------------------------------------------------------------------


class Doubtful(Judge):
    """Is sure of rain in every second picture."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.calls = 0

    def forward(self, x: Tensor, *, whole: int = 0) -> Tensor:
        self.calls += 1
        rain = 3.0 if self.calls % 2 else -1.0
        return torch.tensor([[rain if name == "rain" else -5.0 for name in FINDINGS]])


def test_a_judge_decides_once_for_the_whole_video() -> None:
    judge = AutoRestorer(
        Doubtful(),
        model="judge_small",
        sha256="3" * 64,
        device="cpu",
        precision="fp32",
        restorer=lambda task: restorer(lambda x: 1 - x, task),
        by_evidence=False,
    )
    write("a.mp4", [np.full((HEIGHT, WIDTH, 3), 0.2)] * 8)
    result = restored("a.mp4", net=judge)
    assert result.steps == ("derain",)
    assert result.findings is not None
    assert 0.5 < result.findings["rain"] < 0.95
    assert abs(pictures_of("out.mp4") - 204).max() <= 4


def test_tiles_are_the_same_for_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.mp4")
    sides = iter([300, 200, 100])
    monkeypatch.setattr(Restorer, "auto_tile", lambda self: next(sides))
    used = set()
    original = Restorer.restore

    def noted(self: Restorer, image: Any, **options: Any) -> Any:
        used.add(options["tile"])
        return original(self, image, **options)

    monkeypatch.setattr(Restorer, "restore", noted)
    restored("a.mp4")
    assert used == {300}


def test_packets_are_decoded_in_order_and_not_after_they_are_shown() -> None:
    shown = [0, 90, 30, 10, 60, 100, 130, 110]
    decoded = decoding_times(shown)
    assert decoded == sorted(set(decoded))
    assert all(at <= when for at, when in zip(decoded, shown, strict=True))


def test_encoders_tell_their_licence() -> None:
    write("a.mp4", panned(2))
    result = restored("a.mp4", crf=30)
    assert result.told().endswith("libx264 (GPL-2.0-or-later) crf 30")
    assert " on cpu, fp32, " in result.told()
    assert " on cpu (openvino), fp32, " in dataclasses.replace(result, backend="openvino").told()
    assert chosen_encoder(Path("a.webm")) == ("libvpx-vp9", 24)


def test_a_missing_pyav_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"fairweather\[video\]"):
        restored("a.mp4")


def test_videos_are_known_by_their_extension() -> None:
    assert is_video(Path("x/A.MTS"))
    assert not is_video(Path("x.jpg"))
    assert written_suffix(Path("a.wmv")) == ".mkv"


def test_a_look_tells_what_a_video_is() -> None:
    write("a.mp4", pixels="yuv420p10le", matrix=QUARTER, pts=UNEVEN)
    seen = look(Path("a.mp4"))
    assert (seen.width, seen.height, seen.bits) == (WIDTH, HEIGHT, 10)
    assert seen.matrix == tuple(QUARTER)
    assert [Fraction(pts) * seen.time_base for pts in seen.pts] == [at * TICKS for at in UNEVEN]
