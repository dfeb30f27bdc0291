"""Files, Pillow images and arrays to pictures and back: the only place for uint8, HWC, EXIF and alpha.

A picture is read whole or refused with one line. Its format is what its first bytes say, its depth what its
header says; nothing is guessed from the name or the values. Pillow does JPEG, WebP, BMP, and reads 8-bit PNG;
libvips (pyvips) does 16-bit PNG, which Pillow cannot hold, all of TIFF, where Pillow cannot put EXIF into a
compressed file, and writes every PNG, several times faster. Metadata of PNG and TIFF are handled here.
Colours are never converted (but CMYK becomes RGB): the ICC profile goes along with the pixels. A JPEG or lossy WebP
that nothing is done to is written as it came, CMYK or not.

    read_picture   bytes or file -> Picture         write_picture    Picture -> file, whole or not at all
    from_pil       Pillow image  -> Picture         encode_picture   Picture -> bytes
    from_array     numpy array   -> Picture         to_pil, to_array   and back
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from jaxtyping import Float, Shaped
from PIL import BmpImagePlugin, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from torch import Tensor

from fairweather import metadata
from fairweather.errors import FairweatherError, PictureError, UsageError, one_line, unknown_name
from fairweather.files import written_whole

Format: TypeAlias = Literal["png", "jpg", "webp", "tiff", "bmp"]
_Samples: TypeAlias = Shaped[np.ndarray, "h w c"]  # uint8 or uint16; grey, grey+alpha, RGB or RGB+alpha

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}  # what we read when walking folders
FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tiff"}  # what --format may say
MAX_MEGAPIXELS = 100.0

_OF_EXTENSION: dict[str, Format] = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
_OF_EXTENSION |= {".tif": "tiff", ".tiff": "tiff", ".bmp": "bmp"}
_LONGEST_SIDE = {"jpg": 65500, "webp": 16383}  # what the file format can hold
_READABLE = "PNG, JPEG, WebP, TIFF or BMP"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory, with what its file needs to be written back as it was.

    `dataclasses.replace(picture, pixels=result)` is how a result takes over everything but the pixels.
    """

    pixels: Float[Tensor, "3 h w"]
    """RGB in [0, 1], float32; grey is repeated three times."""
    mode: Literal["grey", "rgb"] = "rgb"
    """What the source was; a grey source is written grey again, as the mean of the three planes."""
    bits: Literal[8, 16] = 8
    """Depth of the source; 16 is kept where the output format can hold it (png, tiff)."""
    alpha: Float[Tensor, "1 h w"] | None = None
    """In [0, 1], float32; not multiplied into the pixels."""
    format: Format = "png"
    """The format of the source, and of the output when nothing else is asked."""
    lossless: bool = True
    """Whether the source was stored without loss; decides how webp is written."""
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    """A bare TIFF block (without the leading "Exif"), its orientation already reset to 1."""
    xmp: bytes | None = field(default=None, repr=False)
    encoded: bytes | None = field(default=None, init=False, repr=False)
    """The file itself where it was stored with loss, so that a picture that nothing is done to loses no more. It does
    not go along with `dataclasses.replace`; pixels that are changed in place would be lost."""


# ---------------------------------------------------------------- reading


def read_picture(source: str | Path | bytes, *, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Read a picture from a file, or from the bytes of one, turned upright as its EXIF says.

    Args:
        source: a path, or the whole content of a file.
        max_megapixels: refuse, before decoding, what its header says is larger.

    Raises:
        PictureError: the file is missing, empty, not a picture, of a format or kind we do not read, damaged,
            incomplete, animated, of several pages, or too large. Nothing else, whatever the bytes are.
    """
    name = "the picture" if isinstance(source, bytes) else one_line(source)
    try:
        data = source if isinstance(source, bytes) else _load(Path(source))
        picture = _READERS[sniff(data)](data, max_megapixels)
        if not picture.lossless:
            object.__setattr__(picture, "encoded", data)
        return picture
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Exception as error:  # decoders meet hostile bytes with a dozen kinds of exceptions
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> PictureError:
    """What is said of a file whose content is not what its beginning promises."""
    return PictureError(f"{name}: damaged or incomplete ({reason(error)}); copy or download it again")


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as a file's header says, before it is turned upright; (0, 0) where the header cannot be read."""
    import pyvips  # here, because most pictures do without it

    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential")
    except (pyvips.Error, ValueError):  # what is wrong with it is told when it is read
        return 0, 0
    return int(image.width), int(image.height)


def _load(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise PictureError("is a folder; expected a picture file")
        if path.exists() and not path.is_file():
            raise PictureError("is a device or a pipe; expected a picture file")
        with open(path, "rb") as file:
            sniff(file.read(64))  # refuse a film before it fills the memory
            file.seek(0)
            return file.read()
    except FileNotFoundError:
        raise PictureError("no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise PictureError(f"cannot be read ({reason(error)}); check its path and permissions") from error


_FOREIGN = {  # the beginnings of what people do hand in, so that the refusal can name it
    rb"GIF8": "GIF",
    rb"....ftyp(he[iv]|mif1|msf1)": "HEIC",
    rb"....ftypavi[fs]": "AVIF",
    rb"....ftypcrx|FUJIFILM|II\x55\0|IIRO": "camera raw",
    rb"....(ftyp|moov|mdat)|\x1aE\xdf\xa3|RIFF....AVI": "video",
    rb"\xff\x4f\xff\x51|\0\0\0\x0cjP": "JPEG 2000",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL",
    rb"\x76\x2f\x31\x01|#\?RADIANCE": "a high dynamic range picture",
    rb"8BPS": "a Photoshop document",
    rb"%PDF": "PDF",
    rb"<\?xml|<svg": "SVG",
    rb"II\x2b\0|MM\0\x2b": "BigTIFF",
}


def sniff(data: bytes) -> Format:
    """The format by the first bytes; PictureError if it is none of ours."""
    if not data:
        raise PictureError("is empty (0 bytes); copy or download it again")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if data.startswith(b"BM") and data[15:18] == b"\0\0\0":
        return "bmp"  # with a header of less than 256 bytes; a text may begin with BM too
    for beginning, kind in _FOREIGN.items():
        if re.match(beginning, data, re.DOTALL):
            raise PictureError(f"is {kind}, which is not supported; convert it to {_READABLE}")
    raise PictureError(f"is not a picture; expected {_READABLE}")


def check_size(width: int, height: int, max_megapixels: float) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"its header says {width}x{height} pixels")
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise PictureError(
            f"has {width}x{height} pixels ({megapixels:.1f} megapixels) and the limit is {max_megapixels:g}; "
            f"raise it with --max-megapixels {math.ceil(megapixels)}"
        )


def _read_jpeg(data: bytes, max_megapixels: float) -> Picture:
    samples, blocks = _decode_pillow(JpegImagePlugin.JpegImageFile, data, max_megapixels)
    return _assemble(samples, format="jpg", lossless=False, **blocks)


def _read_bmp(data: bytes, max_megapixels: float) -> Picture:
    samples, blocks = _decode_pillow(BmpImagePlugin.BmpImageFile, data, max_megapixels)
    return _assemble(samples, format="bmp", lossless=True, **blocks)


def _read_webp(data: bytes, max_megapixels: float) -> Picture:
    kinds: list[bytes] = []
    here = 12
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError(f"{len(data)} bytes of {end}")
    while here + 8 <= end and len(kinds) < 1000:  # an honest file has fewer, or is animated
        kinds.append(data[here : here + 4])
        size = int.from_bytes(data[here + 4 : here + 8], "little")
        here += 8 + size + size % 2
    if kinds.count(b"ANMF") > 1:
        raise PictureError("is an animated WebP, which is not supported; extract one frame")
    samples, blocks = _decode_pillow(WebPImagePlugin.WebPImageFile, data, max_megapixels)
    return _assemble(samples, format="webp", lossless=b"VP8L" in kinds, **blocks)


def _read_png(data: bytes, max_megapixels: float) -> Picture:
    chunks = metadata.png_chunks(data)
    if [kind for kind, _ in chunks].index(b"IHDR") != 0:
        raise ValueError("its header is not at the beginning")
    width, height, depth = struct.unpack_from(">IIB", chunks[0][1])
    check_size(width, height, max_megapixels)
    if any(kind == b"acTL" and body[:4] != b"\0\0\0\1" for kind, body in chunks):
        raise PictureError("is an animated PNG, which is not supported; extract one frame")
    pixels = metadata.join_png(
        [chunk for chunk in chunks if chunk[0] in metadata.PIXEL_CHUNKS]
    )  # texts may be bombs
    if depth == 16:
        samples = _decode_vips("pngload_buffer", pixels, width, height)
    else:
        samples, _ = _decode_pillow(PngImagePlugin.PngImageFile, pixels, max_megapixels)
    del pixels  # the next line needs the memory
    return _assemble(samples, format="png", lossless=True, **metadata.png_metadata(chunks))


_QUIET = threading.Lock()


def _decode_pillow(
    decoder: type[ImageFile.ImageFile], data: bytes, max_megapixels: float
) -> tuple[_Samples, dict[str, Any]]:
    """Samples and metadata by one Pillow decoder, without Image.open and its own limit on pixels."""
    with _QUIET, warnings.catch_warnings():  # warning filters are global, hence the lock
        warnings.simplefilter("ignore")  # about odd EXIF, which we keep as it is
        image = decoder(io.BytesIO(data))
    check_size(*image.size, max_megapixels)
    return _pillow_samples(image)


def _decode_vips(loader: str, data: bytes, width: int, height: int) -> _Samples:
    import pyvips  # here, because most pictures do without it

    image = getattr(pyvips.Image, loader)(data, access="sequential", fail_on="error")
    if (image.width, image.height) != (width, height) or image.format not in ("uchar", "ushort"):
        raise ValueError(f"its header says {width}x{height}, its pixels {image.width}x{image.height}")
    samples: _Samples = image.numpy().reshape(height, width, image.bands)
    return samples


def _pillow_samples(image: PIL.Image.Image) -> tuple[_Samples, dict[str, Any]]:
    """Samples and metadata of a Pillow image of any mode we take."""
    samples = np.asarray(_pillow_convert(image))
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    blocks = {name: image.info.get(key) for name, key in _PILLOW_NAMES.items()}
    if image.mode == "CMYK":
        blocks["icc"] = None  # used up by the conversion
    return samples if samples.ndim == 3 else samples[..., None], blocks


_PILLOW_NAMES = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}


def _pillow_convert(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in mode L, LA, RGB, RGBA, or 16-bit grey as it is."""
    alpha = "A" if image.has_transparency_data else ""
    if image.mode in ("1", "L", "LA", "La"):
        wanted = "L" + alpha
    elif image.mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "HSV"):
        wanted = "RGB" + alpha
    elif image.mode == "CMYK":
        return _cmyk_to_rgb(image, image.info.get("icc_profile"))
    elif image.mode in ("I;16", "I;16B"):
        return image
    else:
        raise PictureError(f"has Pillow mode {image.mode}, which is not supported; convert it to L or RGB")
    return image if image.mode == wanted else image.convert(wanted)


def _cmyk_to_rgb(image: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    if icc:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a broken profile: as if there were none
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            screen = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, screen, outputMode="RGB")
            return cast(PIL.Image.Image, converted)
    return image.convert("RGB")


def _assemble(
    samples: _Samples,
    *,
    format: Format,
    lossless: bool,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
) -> Picture:
    """A Picture of decoded samples, turned upright as `exif` says."""
    like, orientation = without_pixels(format=format, lossless=lossless, icc=icc, exif=exif, xmp=xmp)
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]

    planes = np.moveaxis(samples, -1, 0)  # 1 to 4 of h w
    colours = 1 if len(planes) < 3 else 3
    return dataclasses.replace(
        like,
        pixels=unit_range(planes[:colours], 3),
        mode="grey" if colours == 1 else "rgb",
        bits=16 if samples.dtype == np.uint16 else 8,
        alpha=unit_range(planes[colours:], 1) if len(planes) > colours else None,
    )


def without_pixels(
    *,
    format: Format,
    lossless: bool,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
) -> tuple[Picture, int]:
    """All of a picture but its pixels, as it is once they are turned upright, and by which orientation to turn them."""
    orientation, exif = metadata.reset_orientation(exif)
    if orientation != 1 and xmp:
        xmp = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>))[2-8]", rb"\g<1>1", xmp)
    picture = Picture(
        pixels=torch.zeros(3, 0, 0),
        format=format,
        lossless=lossless,
        icc=icc or None,
        exif=exif,
        xmp=xmp or None,
    )
    return picture, orientation


def unit_range(planes: Shaped[np.ndarray, "c h w"], count: int) -> Float[Tensor, "{count} h w"]:
    """Integer planes as float32 in [0, 1], with no other copy; one plane is repeated to fill `count`."""
    unit = np.empty((count, *planes.shape[1:]), np.float32)
    np.divide(planes, np.float32(np.iinfo(planes.dtype).max), out=unit, dtype=np.float32)
    return torch.from_numpy(unit)


# ---------------------------------------------------------------- writing


def write_picture(
    picture: Picture, path: Path | str, *, format: str | None = None, quality: int | None = None
) -> None:
    """Write a picture to a file, whole or not at all; missing folders are made.

    The format is `format`, else that of the path's extension, else that of the picture. See encode_picture.

    Raises:
        PictureError: it cannot be encoded, or the file cannot be written; an older file is then as it was.
        UsageError: an unknown format, or a quality outside 1 to 100.
    """
    with picture_written(picture, path, format=format, quality=quality):
        pass


@contextlib.contextmanager
def picture_written(
    picture: Picture, path: Path | str, *, format: str | None = None, quality: int | None = None
) -> Iterator[None]:
    """As `write_picture`; the file takes its place if the block ends well, and is gone if it does not."""
    path = Path(path)
    try:
        data = encode_picture(picture, format=output_format(path, format), quality=quality)
    except PictureError as error:
        raise PictureError(f"{one_line(path)}: {error}") from error.__cause__

    try:
        with written_whole(path) as part:
            part.write_bytes(data)
            yield
    except FairweatherError:  # of the block
        raise
    except (OSError, ValueError) as error:
        message = f"{one_line(path)}: cannot be written ({reason(error)}); check the folder and the disk"
        raise PictureError(message) from error


def output_format(path: Path, format: str | None) -> str | None:
    """The format that a file is written in: the one asked for, else that of its extension, if it tells."""
    return format or _OF_EXTENSION.get(path.suffix.lower())


def encode_picture(picture: Picture, *, format: str | None = None, quality: int | None = None) -> bytes:
    """The bytes of a file holding the picture.

    Values are clamped to [0, 1] and rounded to 8 bits, or to 16 if the picture has 16 and the format can hold
    them. PNG, TIFF and BMP lose nothing, nor does WebP if the source lost nothing; JPEG is 4:4:4. Alpha is
    dropped by JPEG and BMP, metadata by BMP. A picture as it was read from a lossy file is that file.

    Args:
        picture: what to encode.
        format: "png", "jpg", "webp", "tiff" or "bmp"; the picture's own by default.
        quality: of jpg and of lossy webp, 1 to 100; 95 by default. If it is given, a picture as it was read is
            encoded again, too.

    Raises:
        PictureError: NaN among the pixels, or more than the format can hold.
        UsageError: an unknown format, or a quality outside 1 to 100.
    """
    chosen = format or picture.format
    if chosen not in _OF_EXTENSION.values():
        raise unknown_name("format", chosen, FORMATS)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is outside 1 to 100; 95 is a good one")
    height, width = picture.pixels.shape[1:]
    if max(height, width) > _LONGEST_SIDE.get(chosen, max(height, width)):
        limit = f"{_LONGEST_SIDE[chosen]} pixels a side"
        raise PictureError(f"{chosen} holds at most {limit}, this has {width}x{height}; write png or tiff")

    if picture.encoded is not None and chosen == picture.format and quality is None:
        return picture.encoded
    bits = picture.bits if chosen in ("png", "tiff") else 8
    samples = quantised(picture, bits, alpha=chosen not in ("jpg", "bmp"))
    try:
        if chosen == "png":
            return _encode_png(samples, picture)
        if chosen == "tiff":
            return _encode_tiff(samples, picture)
        return _encode_pillow(samples, picture, cast(Format, chosen), quality or 95)
    except Exception as error:  # as many kinds as when decoding
        raise PictureError(f"cannot be encoded as {chosen} ({reason(error)}); try another format") from error


def _planes(picture: Picture, *, alpha: bool) -> list[Float[Tensor, "h w"]]:
    colours = [picture.pixels.mean(0)] if picture.mode == "grey" else list(picture.pixels)
    return colours + ([picture.alpha[0]] if alpha and picture.alpha is not None else [])


def quantised(picture: Picture, bits: int, *, alpha: bool) -> _Samples:
    """Values clamped to [0, 1] and rounded to `bits`, plane by plane so that no second float copy is made."""
    planes = _planes(picture, alpha=alpha)
    samples = np.empty((*planes[0].shape, len(planes)), np.uint16 if bits == 16 else np.uint8)
    for index, plane in enumerate(planes):
        if plane.isnan().any():
            raise PictureError("the pixels are not numbers (NaN); the network overflowed: run it in float32")
        scaled = plane.detach().to("cpu", torch.float32) * (2**bits - 1)
        samples[..., index] = scaled.round_().clamp_(0, 2**bits - 1).numpy()
    return samples


def _encode_png(samples: _Samples, picture: Picture) -> bytes:
    data = _vips_image(samples).pngsave_buffer(filter="all", keep="none")
    chunks = [(kind, body) for kind, body in metadata.png_chunks(data) if kind in metadata.PIXEL_CHUNKS]
    return metadata.join_png([chunks[0], *png_metadata(picture), *chunks[1:]])


def png_metadata(picture: Picture) -> list[tuple[bytes, bytes]]:
    extra = []
    if picture.icc:
        extra.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    if picture.exif:
        extra.append((b"eXIf", picture.exif))
    if picture.xmp:
        extra.append((b"iTXt", metadata.XMP_KEYWORD + b"\0\0\0\0" + picture.xmp))
    return extra


def _encode_pillow(samples: _Samples, picture: Picture, format: Format, quality: int) -> bytes:
    options = _pillow_metadata(picture) | {"quality": quality}
    if format == "bmp":
        return _save_pillow(samples, "BMP")
    if format == "webp":
        lossless = {"lossless": True, "quality": 80} if picture.lossless else {}  # then quality is effort
        return _save_pillow(samples, "WEBP", exact=True, **(options | lossless))
    data = _save_pillow(samples, "JPEG", subsampling=0, **options)
    # With optimize, Pillow reserves a byte a pixel, or two from quality 95 on, and fails if that is too few.
    if len(data) <= max(2**16, samples.shape[0] * samples.shape[1] * (2 if quality >= 95 else 1)):
        data = _save_pillow(samples, "JPEG", subsampling=0, optimize=True, **options)
    return data


def _pillow_metadata(picture: Picture) -> dict[str, Any]:
    exif = b"Exif\0\0" + picture.exif if picture.exif else b""
    return {"icc_profile": picture.icc or b"", "exif": exif, "xmp": picture.xmp or b""}


def _save_pillow(samples: _Samples, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    _pillow_image(samples).save(buffer, format, **options)
    return buffer.getvalue()


def _pillow_image(samples: _Samples) -> PIL.Image.Image:
    return PIL.Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _vips_image(samples: _Samples) -> Any:
    import pyvips  # here, because most pictures do without it

    kind = INTERPRETATIONS[8 * samples.dtype.itemsize][samples.shape[2] >= 3]
    return pyvips.Image.new_from_array(samples).copy(interpretation=kind)


INTERPRETATIONS = {8: ("b-w", "srgb"), 16: ("grey16", "rgb16")}
"""What libvips calls grey and colours of so many bits."""


# ---------------------------------------------------------------- Pillow images and arrays


def from_pil(image: PIL.Image.Image) -> Picture:
    """Picture of a Pillow image (modes 1, L, LA, P, PA, RGB, RGBA, CMYK, I;16), upright as its EXIF says.

    Raises:
        PictureError: a mode we do not take, such as F, or a lazily opened file that is damaged.
    """
    try:
        image.load()
        samples, blocks = _pillow_samples(image)
        return _assemble(samples, format="png", lossless=True, **blocks)
    except PictureError as error:
        raise PictureError(f"the image: {error}") from None
    except Exception as error:
        raise PictureError(f"the image: cannot be used ({reason(error)})") from error


def to_pil(picture: Picture) -> PIL.Image.Image:
    """Pillow image of a picture: L, LA, RGB or RGBA; I;16 for 16-bit grey, the only 16 bits Pillow has."""
    planes = _planes(picture, alpha=True)
    image = _pillow_image(
        quantised(picture, 16 if picture.bits == 16 and len(planes) == 1 else 8, alpha=True)
    )
    blocks = _pillow_metadata(picture)
    image.info.update({key: value for key, value in blocks.items() if value})
    return image


def from_array(array: npt.NDArray[Any]) -> Picture:
    """Picture of an array h w, h w 1, h w 3 (RGB) or h w 4 (RGBA); uint8, uint16, or float in [0, 1].

    Float counts as 16 bits, should it be written to a file.

    Raises:
        PictureError: another shape or type, or floating point values outside [0, 1].

    >>> from_array(np.full((1, 2), 51, np.uint8)).pixels[:, 0, 1]
    tensor([0.2000, 0.2000, 0.2000])
    """
    samples = array[..., None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[2] not in (1, 3, 4) or samples.size == 0:
        shapes = "(h, w), (h, w, 1), (h, w, 3) or (h, w, 4)"
        raise PictureError(f"the array has shape {array.shape}; expected {shapes}")
    if samples.dtype in (np.uint8, np.uint16):
        return _assemble(samples, format="png", lossless=True)
    if samples.dtype.kind != "f":
        raise PictureError(f"the array has type {array.dtype}; expected uint8, uint16, or float in [0, 1]")
    low, high = samples.min(), samples.max()
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # a little for rounding; NaN fails as well
        raise PictureError(f"the array has values from {low:g} to {high:g}; scale it to [0, 1]")
    planes = torch.from_numpy(np.moveaxis(samples, -1, 0).astype(np.float32, order="C")).clamp_(0, 1)
    return Picture(
        pixels=planes[:3] if len(planes) >= 3 else planes.repeat(3, 1, 1),
        mode="rgb" if len(planes) >= 3 else "grey",
        bits=16,
        alpha=planes[3:] if len(planes) == 4 else None,
    )


def to_array(picture: Picture, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The picture as an array of the type and the channels of `like`, the array it came from."""
    planes = _planes(picture, alpha=True)
    if like.dtype.kind == "f":
        clamped = [plane.detach().cpu().clamp(0, 1).numpy() for plane in planes]
        samples = np.stack(clamped, -1).astype(like.dtype)
    else:
        samples = quantised(picture, 8 * like.dtype.itemsize, alpha=True)
    return samples[..., 0] if like.ndim == 2 else samples


# ---------------------------------------------------------------- TIFF

_SUBFILE, _WIDTH, _HEIGHT, BITS, _COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLE_FORMAT, _XMP, _ICC, _DNG_VERSION = 339, 700, 34675, 50706
# What tells of the picture rather than of its storage: orientation, resolution, title, maker, date, rights
_DESCRIPTIVE = {
    metadata.ORIENTATION,
    282,
    283,
    296,
    *range(269, 273),
    305,
    306,
    315,
    316,
    18246,
    33432,
    34665,
    34853,
}
_LOSSLESS = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}  # none, CCITT, LZW, deflate, PackBits, LZMA, zstd


def _read_tiff(data: bytes, max_megapixels: float) -> Picture:
    tags, (width, height), blocks = tiff_header(data, max_megapixels)
    samples = _decode_vips("tiffload_buffer", data, width, height)
    photometric = metadata.number(tags, PHOTOMETRIC)
    if photometric == 5:
        samples = np.asarray(_cmyk_to_rgb(PIL.Image.fromarray(samples, "CMYK"), blocks["icc"]))
        blocks["icc"] = b""  # used up
    elif photometric == 3 and samples.shape[2] < 3:  # libvips makes grey of a palette of greys
        samples = samples[..., [0, 0, 0, 1][: samples.shape[2] + 2]]
    return _assemble(samples, format="tiff", **blocks)


def tiff_header(
    data: metadata.Block, max_megapixels: float
) -> tuple[metadata.Tags, tuple[int, int], dict[str, Any]]:
    """Tags, (width, height), and what `Picture` keeps of a TIFF beside its pixels; PictureError for kinds not taken."""
    tags, end = metadata.first_tags(data)
    width, height = metadata.number(tags, _WIDTH), metadata.number(tags, _HEIGHT)
    check_size(width, height, max_megapixels)
    _check_tiff(tags, end, data)
    kept = {tag: tags[tag] for tag in _DESCRIPTIVE & tags.keys()}
    return (
        tags,
        (width, height),
        {
            "lossless": metadata.number(tags, _COMPRESSION, 1) in _LOSSLESS,
            "icc": metadata.values(tags, _ICC).tobytes(),
            "exif": b"II*\0\x08\0\0\0" + metadata.write_tags(kept, 8) if kept else None,
            "xmp": metadata.values(tags, _XMP).tobytes(),
        },
    )


def _check_tiff(tags: metadata.Tags, end: int, data: metadata.Block) -> None:
    """Refuse camera raw, several pages, and the kinds of numbers and colours that would come out wrong."""
    bits = metadata.values(tags, BITS)[:8].tolist() or [1]
    colours, jpeg = metadata.number(tags, PHOTOMETRIC), metadata.number(tags, _COMPRESSION) in (6, 7)
    smaller = 1  # bit of _SUBFILE: a thumbnail, or a smaller copy of another page
    if (
        _DNG_VERSION in tags
        or data[8:10] == b"CR"
        or metadata.number(tags, _SUBFILE) & smaller
        or colours > 32767
    ):
        raise PictureError("is camera raw, which is not supported; develop it to a 16-bit TIFF")
    if set(bits) not in ({1}, {2}, {4}, {8}, {16}) or set(
        metadata.values(tags, _SAMPLE_FORMAT)[:8].tolist()
    ) - {1}:
        kind = "float or signed" if metadata.number(tags, _SAMPLE_FORMAT, 1) != 1 else "unsigned"
        sizes = "/".join(str(size) for size in dict.fromkeys(bits))
        raise PictureError(f"is a TIFF of {sizes}-bit {kind} numbers; convert it to 8 or 16 bits, unsigned")
    known = colours in (0, 1, 2, 3) or (colours == 5 and bits[0] == 8) or (colours == 6 and jpeg)
    if not known or len(bits) > 4:
        name = {5: "16-bit CMYK", 6: "YCbCr", 8: "Lab"}.get(colours, f"kind {colours}")
        raise PictureError(f"is a TIFF of {len(bits)} channels of {name} colour; convert it to RGB")

    for _ in range(16):  # more than any pyramid of smaller copies has
        (here,) = struct.unpack_from(metadata.byte_order(data) + "I", data, end)
        if here == 0:
            return
        page, end = metadata.read_tags(data, here)
        if not metadata.number(page, _SUBFILE) & smaller:
            break
    raise PictureError("is a TIFF of several pages, which is not supported; extract one page")


def _encode_tiff(samples: _Samples, picture: Picture) -> bytes:
    image = _vips_image(samples)
    data: bytes = image.tiffsave_buffer(compression="deflate", predictor="horizontal", keep="none")
    here = len(data) + len(data) % 2
    return (
        data[:4]
        + struct.pack("<I", here)
        + data[8:].ljust(here - 8, b"\0")
        + tiff_directory(data, picture, here)
    )


def tiff_directory(data: metadata.Block, picture: Picture, here: int) -> bytes:
    """The tags of a TIFF that libvips wrote, with the picture's metadata, to be put at byte `here` of it."""
    tags, _ = metadata.first_tags(data)
    tags = {tag: tags[tag] for tag in tags.keys() - _DESCRIPTIVE}  # libvips makes up a resolution
    if picture.exif:
        with contextlib.suppress(struct.error, ValueError):  # it was damaged in the source already
            described, _ = metadata.first_tags(picture.exif)
            tags |= {tag: described[tag] for tag in _DESCRIPTIVE & described.keys()}
    for tag, kind, block in ((_XMP, 1, picture.xmp), (_ICC, 7, picture.icc)):
        if block:
            tags[tag] = kind, np.frombuffer(block, np.uint8)
    return metadata.write_tags(tags, here)


_READERS: dict[Format, Callable[[bytes, float], Picture]] = {"png": _read_png, "jpg": _read_jpeg}
_READERS |= {"webp": _read_webp, "tiff": _read_tiff, "bmp": _read_bmp}


# ---------------------------------------------------------------- messages


def reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split())[:150] or type(error).__name__
