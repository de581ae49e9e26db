"""Text on pictures that always draws: measured, wrapped, shortened, and never a crash over a character.

The font is the one inside Pillow, so that pictures look the same everywhere. It knows little beyond ASCII: a text with
other letters is drawn in the font of the system that has most of them; what is still missing is drawn without accents,
or as ``?``, of which one warning tells. The environment variable ``SQUEEZECAM_FONT`` names a font file to be used for
all text.
"""

from __future__ import annotations

import importlib.util
import os
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from squeezecam.errors import InputError, SqueezeWarning

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, GRAY, AMBER = (28, 30, 34), (104, 109, 117), (168, 84, 0)
ELLIPSIS = "..."
SEPARATOR = " · "
"""Between a name and its number."""

_PLAIN = str.maketrans({
    "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00d7": "x", "\u2192": "->",
    "\u2190": "<-", "\u2264": "<=", "\u2265": ">=", "\u2248": "~", "\u2022": "\u00b7", "\u00a0": " ", "\u202f": " ",
    "\u2009": " ", "\u03bc": "u", "\u00b5": "u",
})  # fmt: skip
_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc", "Arial Unicode.ttf", "Arial.ttf", "arial.ttf", "PingFang.ttc", "msyh.ttc", "segoeui.ttf",
)  # fmt: skip


_KINDS = (".ttf", ".ttc", ".otf")
_BROAD = ("cjk", "unicode", "unifont", "gothic", "mincho", "droidsansfallback", "noto", "hei", "ming", "nanum")
_MOST_FONTS = 400


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


def drawable(text: str) -> bool:
    """Whether all letters of a text can be drawn; what cannot is drawn as ``?``."""
    return "?" not in _drawable(text.replace("?", ""), 12)[0]


def shorten(text: str, width: int, size: int) -> str:
    """``text``, or as much of it as fits into ``width`` pixels with an ellipsis in the place of what is cut.

    That is the end, or, where there is a ``·``, what stands before the last one: of a name and its number the name.
    """
    return _cut(text, lambda tried: text_width(tried, size) <= width)


def _cut(text: str, fits: Callable[[str], bool]) -> str:
    """As much of ``text`` as ``fits``, see :func:`shorten`."""
    if fits(text):
        return text
    name, dot, number = text.rpartition(SEPARATOR)
    if dot and fits(ELLIPSIS + dot + number):
        return _begun(name, dot + number, fits)
    return _begun(text, "", fits)


def _begun(text: str, end: str, fits: Callable[[str], bool]) -> str:
    """The beginning of ``text``, as much as fits with an ellipsis and ``end`` after it."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        good = fits(text[:middle].rstrip() + ELLIPSIS + end)
        low, high = (middle, high) if good else (low, middle - 1)
    return text[:low].rstrip() + ELLIPSIS + end


def wrap(text: str, width: int, size: int, max_lines: int) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels.

    What exceeds ``max_lines`` is cut as in :func:`shorten`, the paragraph that does not fit first; later ones are left
    out.
    """
    kept: list[str] = []
    for paragraph in text.splitlines():
        room = max_lines - len(kept)
        lines = _lines(paragraph, width, size, room)
        if len(lines) <= room:
            kept += lines
            continue
        if room == 0:  # there is no line for even the beginning of it: the one before says so
            kept[-1] = _begun(kept[-1], "", lambda tried: text_width(tried, size) <= width)
            break
        cut = _cut(paragraph, lambda tried, room=room: len(_lines(tried, width, size, room)) <= room)  # type: ignore[misc]
        kept += _lines(cut, width, size, room)
        if len(kept) > max_lines or text_width(ELLIPSIS, size) > width:  # hardly wider than a letter
            kept = [*kept[: max_lines - 1], ELLIPSIS]
        break
    return kept


def _lines(paragraph: str, width: int, size: int, enough: int) -> list[str]:
    """Lines of one paragraph, hardly more than ``enough``."""
    lines: list[str] = []
    current = ""
    for word in _pieces(paragraph.split(), width, size):
        longer = f"{current} {word}" if current else word
        if current and text_width(longer, size) > width:
            lines.append(current)
            longer = word
        current = longer
        if len(lines) > enough:
            break
    lines.append(current)
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
            count = max(1, len(_begun(word, "", lambda tried: text_width(tried, size) <= width)) - len(ELLIPSIS))
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
        scripts = {_script(c): c for c in reversed(cleaned) if not _has("", c)}
        others = (_font_with(c) for c in scripts.values())
        places = ("", *_fallback_fonts(), *(place for place in others if place is not None))
        best = max(places, key=lambda place: sum(_has(place, c) for c in cleaned))
    drawn = "".join(_nearest(c, best) for c in cleaned)
    if drawn.count("?") > cleaned.count("?"):
        _tell_missing(cleaned)
    return drawn, _font(best, size)


def _script(character: str) -> str:
    """The first word of a character's name: HIRAGANA, CJK, ARABIC."""
    return unicodedata.name(character, "").partition(" ")[0]


@lru_cache(maxsize=256)
def _font_with(character: str) -> str | None:
    """A font of the system that has a character, where none of those known by name has it; one look per script."""
    if any(_has(place, character) for place in _fallback_fonts()):
        return None
    return next((place for place in _system_fonts() if _has(place, character)), None)


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Font files in the usual folders, those first whose names promise many letters."""
    data = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")
    home, windows = Path.home(), os.environ.get("WINDIR", "")
    folders = [Path(base) / "fonts" for base in data if base] + [home / ".fonts", home / ".local/share/fonts"]
    folders += [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    folders += [Path(windows) / "Fonts"] if windows else []
    found = [
        path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.suffix.lower() in _KINDS
    ]
    found.sort(key=lambda path: (not any(word in path.name.lower() for word in _BROAD), path.name))
    return tuple(str(path) for path in found[:_MOST_FONTS] if _opens(path))


def _opens(path: Path) -> bool:
    try:
        ImageFont.truetype(str(path), 12)
    except OSError:
        return False
    return True


_told: list[str] = []


def _tell_missing(text: str) -> None:
    """Warn once that letters are missing, and how to have them drawn."""
    if _told:
        return
    _told.append(text)
    warnings.warn(
        f"no font of this system has all letters of '{text[:60]}', and what is missing is drawn as '?': install a font "
        "that has them, or name its file in SQUEEZECAM_FONT",
        SqueezeWarning,
        stacklevel=2,
    )


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
