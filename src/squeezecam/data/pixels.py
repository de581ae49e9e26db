"""Reading one picture with the right pixels: rotation, transparency, palettes, CMYK, 16 bits, damaged files."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from squeezecam.data.clip_pieces import is_clip
from squeezecam.errors import InputError, SqueezeWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_MAX_PIXELS = 100_000_000
WHITE = (255, 255, 255)
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif", ".mpo",
)  # fmt: skip

# Named one by one: Pillow also knows formats that start other programs (EPS runs Ghostscript) or are not pictures.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "MPO", "TGA", "ICO")

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
NEARLY_BLACK = 4096
"""Under this, 16-bit gray is more likely 12 or 8 bits in a larger container than a picture taken at night."""


def read_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    background: tuple[int, int, int] = WHITE,
) -> Image.Image:
    """Read a picture file as it is meant to be seen: upright RGB, 8 bits per channel.

    The EXIF (or TIFF) orientation is applied; see `to_rgb` for what becomes of other modes. Of an animation or a file
    with several pages the first is read. Colour profiles are ignored, as in the usual training pipelines.

    Args:
        path: the file.
        max_pixels: a picture of more pixels (width times height) is refused from its header,
            before decoding; None: no limit.
        background: the colour that shows through transparent pixels.

    Raises:
        InputError: no such file, a folder, empty, not a picture, damaged or cut short, or too large.
    """
    name = display(path)
    if os.path.isdir(path):
        raise InputError(f"{name} is a folder, not a picture")
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise InputError(f"no such file: {name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {name}: {_cause(error)}") from None
    if size == 0:
        raise InputError(f"{name} is empty (0 bytes)")
    with _strict_pillow():
        try:
            opened = Image.open(path, formats=_known_formats())
        except UnidentifiedImageError:
            hint = "; a clip is explained by 'squeezecam video'" if is_clip(Path(path)) else ""
            raise InputError(
                f"{name} is not a picture in a known format (by its content, whatever its name){hint}"
            ) from None
        except Exception as error:  # the readers raise anything from SyntaxError to struct.error on damaged headers
            raise InputError(f"cannot read {name}: {_cause(error)}") from None
        with opened as image:
            refuse_large(name, *image.size, max_pixels)
            try:
                image.load()
                _warn_of_unused_range(name, image)
                return _upright(image, to_rgb(image, background))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            except Exception as error:
                raise InputError(f"{name} is damaged or incomplete: {_cause(error)}") from None


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Convert a Pillow image of any mode to a new RGB image with the same look.

    * Transparency (RGBA, LA, palettes and colours marked transparent) is laid over ``background``, white by default.
    * 16-bit gray is scaled by the full 16-bit range (65535 becomes 255, never clipped). 32-bit integers too, where they
      fit that range; values outside it are stretched from their minimum to their maximum.
    * Floating point: values in [0, 1] are scaled to 255, values in [0, 255] are taken as they are, others are stretched
      from minimum to maximum; NaN is drawn black, an infinity as the end of the range on its side.
    * CMYK is converted as Pillow does, which undoes the inversion that JPEG files carry.

    Raises:
        InputError: a mode that cannot be converted, or no finite value.
    """
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return _bare(image)
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(image), floating=mode == "F")).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if mode == "La":
            image = image.convert("LA")
        colours = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*background, 255))
        return _bare(Image.alpha_composite(canvas, colours).convert("RGB"))
    if mode == "LAB":
        from PIL import ImageCms

        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        if converted is not None:
            return _bare(converted)
    try:
        return _bare(image.convert("RGB"))
    except ValueError:
        raise InputError(f"pictures of mode {mode} cannot be converted to RGB; save it as PNG first") from None


def refuse_large(name: str, width: int, height: int, max_pixels: int | None) -> None:
    """Raise an InputError where ``width`` x ``height`` is more than ``max_pixels``."""
    if max_pixels is not None and width * height > max_pixels:
        raise InputError(
            f"{name} has {width} x {height} = {width * height:,} pixels, more than the limit of {max_pixels:,}; "
            "make it smaller, or raise the limit with --max-pixels"
        )


def display(path: str | os.PathLike[str]) -> str:
    """A file name as printable text (bytes that are not UTF-8 are replaced)."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def _bare(image: Image.Image) -> Image.Image:
    # Neither file handle nor metadata goes along: a stale orientation tag would turn the picture twice.
    bare = Image.new("RGB", image.size)
    bare.paste(image)
    return bare


def _upright(opened: Image.Image, picture: Image.Image) -> Image.Image:
    # Read after loading: PNG carries EXIF behind the pixels, and the TIFF reader has then turned the picture itself.
    try:
        orientation = opened.getexif().get(_ORIENTATION, 1)
        method = _TRANSPOSE.get(int(orientation))
    except Exception:  # damaged metadata is no reason to refuse the pixels
        return picture
    return picture if method is None else picture.transpose(method)


def _to_bytes(values: NDArray[np.generic], *, floating: bool) -> NDArray[np.uint8]:
    finite = np.isfinite(values)
    if not finite.any():
        raise InputError("no pixel has a finite value")
    low, high = float(values[finite].min()), float(values[finite].max())
    if low >= 0 and not floating and high <= 65535:
        # By table: a large picture then needs no floating-point copy of itself.
        table = np.rint(np.arange(65536) / 257.0).astype(np.uint8)
        return np.asarray(table[values.astype(np.uint16)])
    if low >= 0 and floating and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    numbers = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    scaled = (numbers - low) / (high - low if high > low else 1.0)
    return np.asarray(np.rint(scaled * 255), dtype=np.uint8)


_dark_named = threading.Event()


def _warn_of_unused_range(name: str, image: Image.Image) -> None:
    """Say, once in a process, that a picture of 16 bits holds fewer: what is meant as white would be nearly black."""
    if not image.mode.startswith("I") or _dark_named.is_set():
        return
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if low < 0 or not 0 < high < NEARLY_BLACK:
        return
    _dark_named.set()
    warnings.warn(
        f"{name} is 16-bit gray and its largest value is {high} of 65535, so it is read as nearly black: if it holds "
        "12 or 8 bits, scale them to 16 first (said of the first such picture alone)",
        SqueezeWarning,
        stacklevel=2,
    )


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


_guard = threading.Lock()
_users = 0
_saved: tuple[bool, int | None] = (False, None)


@contextlib.contextmanager
def _strict_pillow() -> Iterator[None]:
    """Two global switches of Pillow, set for the time of reading and put back, for any number of threads.

    Other libraries turn LOAD_TRUNCATED_IMAGES on for the whole process, and half a picture would be read as gray.
    The limit on pixels is ours (`refuse_large`), before decoding like Pillow's, but one that the user can raise.
    """
    global _users, _saved
    with _guard:
        if _users == 0:
            _saved = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        _users += 1
    try:
        yield
    finally:
        with _guard:
            _users -= 1
            if _users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = _saved


def _cause(error: BaseException) -> str:
    text = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
