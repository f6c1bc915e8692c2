"""Opening a picture that a stranger sent: bounded in memory, upright, or refused with a reason.

Pillow knows some sixty formats, of which several run other programs or were never meant for photographs;
only the ones named here are tried.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import BinaryIO, Final

import msgspec
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from . import Unmeasurable

__all__ = ["FIRST_FRAME", "MAX_PIXELS", "WORKING_SIDE", "Picture", "open_picture"]

MAX_PIXELS: Final = 89_478_485
"""Largest picture that is opened: Pillow's own line for a decompression bomb.

It takes 360 MB while it is read, or twice that with transparency.
"""

WORKING_SIDE: Final = 2048
"""Longest side that faces are measured on, pixels: twice what they are searched on, for the mesh sees more detail."""

FIRST_FRAME: Final = "only the first picture of the animation was measured"

# What undoes each value of the EXIF tag `Orientation` (Exif 2.32, 4.6.4); the last four stand on their side.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = (5, 6, 7, 8)

_FORMATS: Final = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
_READABLE: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF and, where pillow-heif is installed, HEIC"
_HEIC: Final = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class Picture(msgspec.Struct, frozen=True):
    """A picture as a person would see it: turned as its EXIF data says, RGB, at most `WORKING_SIDE` pixels long.

    `width`, `height`: of the upright original, in pixels. `scale_x`, `scale_y`: original over working
    pixels, at least 1. `notes`: what of the file was not looked at.
    """

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...] = ()

    @property
    def scale_x(self) -> float:
        return self.width / self.image.width

    @property
    def scale_y(self) -> float:
        return self.height / self.image.height


def open_picture(path: str) -> Picture:
    """The first frame of the image file at `path`, decoded whole.

    Raises `Unmeasurable` when it is no image, of a format that is not read, damaged, cut short or too
    large; `OSError` when the file itself cannot be opened.
    """
    Image.init()  # so that the formats of optional plugins are known
    with open(path, "rb") as content:
        if _is_heic(content):
            _learn_heic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # asides about odd metadata, which nobody here can act on
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(content, formats=[name for name in _FORMATS if name in Image.OPEN]) as file:
                    return _decode(file)
        except Unmeasurable:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise Unmeasurable(f"the picture is too large: more than {MAX_PIXELS:,} pixels") from error
        except UnidentifiedImageError as error:
            raise Unmeasurable(_why_unknown(content)) from error
        except MemoryError as error:
            raise Unmeasurable("the picture does not fit into the server's memory") from error
        except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged bytes, none of them documented
            raise Unmeasurable(f"the picture is damaged or cut short: {_told(error)}") from error


def _decode(file: Image.Image) -> Picture:
    width, height = file.size
    # Pillow's own check can be switched off, and it is, by programs that hold large scans.
    if width * height > MAX_PIXELS:
        raise Unmeasurable(f"the picture is too large: {width} x {height}, more than {MAX_PIXELS:,} pixels")
    # An MPO's further frames are the camera's own (preview, depth, second eye), not the user's.
    moves = file.format != "MPO" and getattr(file, "is_animated", False)
    # A JPEG can be decoded at a fraction of its size; other formats cannot, and this does nothing.
    file.draft(None, (WORKING_SIDE, WORKING_SIDE))
    file.load()
    turn = file.getexif().get(ExifTags.Base.Orientation)  # asked now, as TIFF files turn themselves while loading
    image = _shrunk(_as_rgb(file))
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    if turn in _SIDEWAYS:
        width, height = height, width
    return Picture(image=image, width=width, height=height, notes=(FIRST_FRAME,) if moves else ())


def _as_rgb(image: Image.Image) -> Image.Image:
    """Eight bits per channel; what is transparent becomes white, as on a page."""
    if image.mode.startswith(("I", "F")):
        # Pillow would clip these at 255: a 16-bit picture came out white.
        values = np.nan_to_num(np.asarray(image, np.float32)).clip(0)
        top = float(values.max(initial=1.0))
        white = 65535.0 if image.mode.startswith("I") and 255 < top < 65536 else max(top, 1.0)
        return Image.fromarray((values * (255 / white)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        page = Image.new("RGB", layer.size, "white")
        page.paste(layer, mask=layer)
        return page
    return image if image.mode == "RGB" else image.convert("RGB")


def _shrunk(image: Image.Image) -> Image.Image:
    """A picture of its own, independent of the file, with no side above `WORKING_SIDE`."""
    scale = WORKING_SIDE / max(image.size)
    if scale >= 1:
        return image.copy()
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _is_heic(content: BinaryIO) -> bool:
    content.seek(0)
    head = content.read(12)
    content.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC


def _learn_heic() -> None:
    """Have Pillow read HEIC if the operator installed what can: its wheels hold x265, GPL, so no extra of ours does."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)


def _why_unknown(content: BinaryIO) -> str:
    content.seek(0)
    if not content.read(1):
        return "the file is empty"
    if _is_heic(content) and "HEIF" not in Image.OPEN:
        return (
            "HEIC pictures are not read by this server: convert it to JPEG or PNG, "
            "or install pillow-heif on the server (its wheels are under the GPL)"
        )
    return f"this is no picture of a kind that is read (read are {_READABLE})"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
