"""Images as files and records have them, to arrays of one shape.

Letters: H x W pixels, C channels.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fednas_jax.errors import DataError

RESAMPLING = Image.Resampling.BILINEAR
"""Pillow's filter for resizing. Where an image shrinks its support grows with the factor, so nothing is aliased."""

Raw = bytes | Path | np.ndarray
"""An image: the content of a file, a file, or pixels [H, W, C] uint8."""

# Pillow's modes of 8 bits, those of grey images first. Others (16 bits, floats) would be cut off at 255.
_GREY = ("L", "LA", "1")
_MODES = (*_GREY, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
# Formats that are read: those of photographs and drawings. Not PostScript, for which Pillow starts another program.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA")
# EXIF's tag of how a photograph is turned, and what turns it upright (Exif 2.32, section 4.6.4).
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODE_OF = {1: "L", 3: "RGB", 4: "RGBA"}


class Damaged(DataError):
    """An image that cannot be opened."""


class Form(NamedTuple):
    """What all images of a data set are brought to."""

    shape: tuple[int, int, int]
    """H, W and C."""
    resize: bool
    """Whether images of other sizes are resized; otherwise they are refused."""


@functools.cache
def suffixes() -> frozenset[str]:
    """Ends of the names of image files, in small letters and with their dot."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in _FORMATS)


def opens(path: Path) -> bool:
    """Whether a file is an image that can be opened, whole."""
    try:
        _pixels(path, str(path), 4)
    except Damaged:
        return False
    return True


def is_image(path: Path) -> bool:
    """Whether a file claims to be an image: by the end of its name or, where that has none, by its first bytes."""
    if path.suffix:
        return path.suffix.lower() in suffixes()
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Exception:  # whatever Pillow makes of what is no image
        return False


def inside(where: str, name: object, folder: Path) -> Path:
    """The path of an image that a file names.

    Args:
      where: the name stands, for messages.
      name: of the image.
      folder: that images are in.

    Raises:
      DataError: the name leads out of the folder: a file cannot name what lies elsewhere on the disk.
    """
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise DataError(f"{where}: got {str(name)[:80]!r}, want the name of an image in {folder}")
    return folder / name


def form_of(raw: Raw, name: str, size: int = 0, channels: int = 0) -> Form:
    """The form that a data set's first image asks for.

    Args:
      raw: the first image.
      name: of the image, for messages.
      size: side in pixels that all images get; 0 keeps the first one's size, which all others must then have.
      channels: 1 (grey), 3 (colour) or 4 (with transparency); 0 keeps the first one's: 1 or 3, of pixels any number.

    Raises:
      DataError: as `read_image`, or numbers that make no form.
    """
    if size < 0:
        raise DataError(f"image size: got {size}, want at least 0")
    if channels not in (0, *_MODE_OF) and not isinstance(raw, np.ndarray):
        raise DataError(f"channels: got {channels}, want 0 (the first image's), 1, 3 or 4")
    image = _pixels(raw, name, channels)
    height, width = (size, size) if size else image.shape[:2]
    return Form((height, width, image.shape[2]), size > 0)


def read_image(raw: Raw, name: str, form: Form) -> np.ndarray:
    """One image in a form: all of it, whatever its proportions, as LEAF and downsampled ImageNet have it.

    Args:
      raw: the image.
      name: of the image, for messages.
      form: what it is brought to. Grey becomes colour where that is asked for; colour does not become grey.

    Returns:
      [H, W, C] uint8.

    Raises:
      DataError: one line that names the image: it cannot be decoded, has more than 8 bits, is in colour where grey is
        wanted, or has another size where nothing is resized.

    Source: Chrabaszcz et al. 2017, arXiv 1707.08819 (whole images, resized to a square).
    """
    image = _pixels(raw, name, form.shape[2])
    if image.shape[2] != form.shape[2]:
        raise DataError(f"{name}: got {image.shape[2]} channels, want {form.shape[2]}, as the first image has")
    if image.shape == form.shape:
        return image
    if not form.resize:
        got, want = (f"{height}x{width}" for height, width in (image.shape[:2], form.shape[:2]))
        raise DataError(f"{name}: got an image of {got}, want {want} as the first, or an image size for all of them")
    return resized(image, form.shape[0], form.shape[1])


def read_images(raws: Sequence[Raw], names: Sequence[str], form: Form, threads: Executor) -> np.ndarray:
    """Several images at once, on several cores (Pillow decodes and resizes without holding Python up).

    Args:
      raws: n images.
      names: n names, for messages.
      form: what they are brought to.
      threads: what decodes them.

    Returns:
      [n, H, W, C] uint8.

    Raises:
      DataError: as `read_image`, for the first image that cannot be read.
    """
    images = np.empty((len(raws), *form.shape), np.uint8)
    for row, image in enumerate(threads.map(lambda raw, name: read_image(raw, name, form), raws, names)):
        images[row] = image
    return images


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image [H, W, C] uint8 in another size, with `RESAMPLING`; [height, width, C]."""
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize((width, height), RESAMPLING)) for plane in planes], axis=-1)


def _pixels(raw: Raw, name: str, channels: int) -> np.ndarray:
    """[H, W, C] uint8 in the image's own size; C is `channels`, unless that is 0 or pixels were given."""
    if isinstance(raw, np.ndarray):
        if raw.ndim != 3 or raw.dtype != np.uint8 or not raw.size:
            raise DataError(f"{name}: got {list(raw.shape)} {raw.dtype}, want pixels [H, W, C] uint8")
        return raw
    try:
        with Image.open(raw if isinstance(raw, Path) else io.BytesIO(raw), formats=_formats()) as opened:
            opened.load()
            image, mode = _upright(opened), opened.mode
            if mode in _MODES:
                wanted = _MODE_OF[channels or (1 if mode in _GREY else 3)]
                if wanted != "L" or mode in _GREY:
                    if "transparency" in image.info and mode == "P":
                        image = image.convert(
                            "RGBA"
                        )  # else Pillow warns of what it leaves out, which is left out below
                    pixels = np.asarray(image.convert(wanted))
                    return pixels[..., None] if wanted == "L" else pixels
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more for a damaged file.
        reason = " ".join(str(error).split())
        raise Damaged(f"{name}: got an image that cannot be decoded ({reason}), want a whole one") from error
    if mode in _MODES:
        raise DataError(f"{name}: got a colour image ({mode}), want grey as the first image, or as asked")
    raise DataError(f"{name}: got an image of mode {mode}, want one of 8 bits a channel")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF tag says."""
    try:
        turned = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: the pixels may be whole, and there is no tag to follow
        turned = None
    return image if turned is None else image.transpose(turned)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow can read."""
    Image.init()
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)
