"""Text on pictures that always draws: measured, wrapped, shortened, and never a crash over a character.

The font is the one inside Pillow, so that pictures look the same everywhere. It knows little beyond ASCII: a text with
other letters is drawn in the font of the system that has most of them; what is still missing is drawn without accents,
or as ``?``. The environment variable ``SQUEEZECAM_FONT`` names a font file to be used for all text.
"""

from __future__ import annotations

import importlib.util
import os
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from squeezecam.errors import InputError

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, GRAY, AMBER = (28, 30, 34), (104, 109, 117), (168, 84, 0)
ELLIPSIS = "..."

_PLAIN = str.maketrans({
    "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00d7": "x", "\u2192": "->",
    "\u2190": "<-", "\u2264": "<=", "\u2265": ">=", "\u2248": "~", "\u2022": "\u00b7", "\u00a0": " ", "\u202f": " ",
    "\u2009": " ", "\u03bc": "u", "\u00b5": "u",
})  # fmt: skip
_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc", "Arial Unicode.ttf", "Arial.ttf", "arial.ttf", "PingFang.ttc", "msyh.ttc", "segoeui.ttf",
)  # fmt: skip


def draw_text(
    draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, fill: tuple[int, int, int] = INK
) -> None:
    """Draw one line with its left top corner at ``xy``."""
    shown, font = _drawable(text, size)
    draw.text(xy, shown, fill=fill, font=font)


def text_width(text: str, size: int) -> int:
    """Width of one line in pixels."""
    shown, font = _drawable(text, size)
    return int(font.getlength(shown) + 0.999)


def line_height(size: int) -> int:
    """Distance from one line to the next in pixels."""
    return round(size * 1.35)


def shorten(text: str, width: int, size: int) -> str:
    """``text``, or as much of its beginning as fits into ``width`` pixels with an ellipsis after it."""
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle].rstrip() + ELLIPSIS, size) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + ELLIPSIS


def wrap(text: str, width: int, size: int, max_lines: int) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels; what exceeds ``max_lines`` ends in an ellipsis."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        current = ""
        for word in _pieces(paragraph.split(), width, size):
            longer = f"{current} {word}" if current else word
            if current and text_width(longer, size) > width:
                lines.append(current)
                longer = word
            current = longer
            if len(lines) > max_lines:
                break
        lines.append(current)
    if len(lines) > max_lines:
        kept = lines[:max_lines]
        # The next line is added first, so that it is always cut, with an ellipsis that says so.
        kept[-1] = shorten(f"{kept[-1]} {lines[max_lines]}{ELLIPSIS * 20}", width, size)
        return kept
    return lines


def text_block(
    text: str,
    width: int,
    size: int,
    *,
    fill: tuple[int, int, int] = INK,
    max_lines: int = 2,
    centred: bool = False,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """A picture ``width`` wide of wrapped text; of height 1 where the text is empty."""
    lines = wrap(text, width, size, max_lines)
    block = Image.new("RGB", (width, max(1, len(lines) * line_height(size))), background)
    draw = ImageDraw.Draw(block)
    for row, line in enumerate(lines):
        x = (width - text_width(line, size)) / 2 if centred else 0
        draw_text(draw, (x, row * line_height(size)), line, size, fill)
    return block


def _pieces(words: list[str], width: int, size: int) -> Iterator[str]:
    """The words, those wider than a line cut into pieces."""
    for word in words:
        while text_width(word, size) > width and len(word) > 1:
            count = max(1, len(shorten(word, width, size)) - len(ELLIPSIS))
            yield word[:count]
            word = word[count:]
        yield word


@lru_cache(maxsize=4096)
def _drawable(text: str, size: int) -> tuple[str, Font]:
    cleaned = unicodedata.normalize("NFC", text.encode("utf-8", errors="replace").decode("utf-8"))
    cleaned = "".join(" " if c.isspace() else c for c in cleaned if c.isprintable() or c.isspace())
    best = ""
    if not _has_all("", cleaned):
        simple = cleaned.translate(_PLAIN)
        if _has_all("", simple):
            return simple, _font("", size)
        best = max(("", *_fallback_fonts()), key=lambda place: sum(_has(place, c) for c in cleaned))
    return "".join(_nearest(c, best) for c in cleaned), _font(best, size)


def _nearest(character: str, place: str) -> str:
    plain = character.translate(_PLAIN)
    bare = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return next((tried for tried in (character, plain, bare) if tried and _has_all(place, tried)), "?")


@lru_cache(maxsize=64)
def _font(place: str, size: int) -> Font:
    """The font in the file ``place``; the empty string stands for the default."""
    chosen = place or os.environ.get("SQUEEZECAM_FONT")
    if not chosen:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(chosen, size)
    except OSError:
        raise InputError(f"SQUEEZECAM_FONT names {chosen}, which is not a font file that can be read") from None


@lru_cache(maxsize=1)
def _fallback_fonts() -> tuple[str, ...]:
    places = []
    for name in _SYSTEM_FONTS:
        try:
            font = ImageFont.truetype(name, 12)
        except OSError:
            continue
        places.append(str(font.path))
    # Found, not imported: matplotlib is large, and a broad font lies in it.
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        inside = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        places += [str(inside)] if inside.is_file() else []
    return tuple(places)


def _has_all(place: str, text: str) -> bool:
    return all(_has(place, character) for character in text)


@lru_cache(maxsize=4096)
def _has(place: str, character: str) -> bool:
    # A font draws one and the same box for all that it lacks; U+FFFF is no character, so every font lacks it.
    return character.isspace() or _drawn(place, character) != _drawn(place, "\uffff")


def _drawn(place: str, character: str) -> bytes:
    canvas = Image.new("L", (48, 48))
    ImageDraw.Draw(canvas).text((8, 8), character, fill=255, font=_font(place, 16))
    return canvas.tobytes()
