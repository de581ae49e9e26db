"""Pictures mean what they show: hot is hot, at its place, with the numbers beside it."""

from __future__ import annotations

import csv
import importlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from squeezecam.errors import InputError, SqueezeWarning
from squeezecam.render import (
    Scale,
    bar_chart,
    chart,
    colour_table,
    colourise,
    comparison_grid,
    contact_sheet,
    csv_table,
    find_scale,
    lightness,
    markdown_table,
    overlay,
    panel,
    parts,
    scale_maps,
    text,
    text_table,
    tile,
)
from squeezecam.render.parts import BAR, level_bar, upright_bar
from squeezecam.render.resample import weights

RNG = np.random.default_rng(0)
Map = NDArray[np.float64]


def peak(row: int, column: int, shape: tuple[int, int] = (7, 7)) -> Map:
    values = np.zeros(shape)
    values[row, column] = 1.0
    return values


def light(picture: Image.Image) -> Map:
    return lightness(np.asarray(picture))


# Colours


def test_heat_grows_lighter_in_equal_steps() -> None:
    steps = np.diff(lightness(colour_table("heat")))
    assert steps.min() > 0  # strictly: a hotter value is never drawn darker or alike
    np.testing.assert_allclose(steps, (97 - 4) / 255, atol=0.35)  # up to the rounding to bytes


def test_lightness_is_that_of_cielab() -> None:
    # Reference values of CIELAB (D65) for the sRGB primaries and a middle gray.
    colours = np.array(
        [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [119, 119, 119]], dtype=np.uint8
    )
    np.testing.assert_allclose(lightness(colours), [0, 100, 53.24, 87.73, 32.30, 50.03], atol=0.02)


def test_signed_is_equally_dark_on_both_sides_and_neutral_at_zero() -> None:
    table = colour_table("signed")
    values = lightness(table)
    np.testing.assert_allclose(values, values[::-1], atol=0.6)
    assert (np.diff(values[:128]) > 0).all()
    assert np.ptp(colourise(np.array([[0.5]]), "signed")) <= 4
    negative, positive = (int(colour[0]) - int(colour[2]) for colour in (table[0], table[-1]))
    assert negative < -50 < 50 < positive  # blue below, red above


def test_hot_stays_hot_beyond_the_range() -> None:
    coloured = colourise(np.array([[-3.0, 0.0, 1.0, 1.004, 2.0, 257 / 255, np.inf, -np.inf]]))[0]
    assert coloured[[3, 4, 5, 6]].tolist() == [coloured[2].tolist()] * 4
    assert coloured[[0, 7]].tolist() == [coloured[1].tolist()] * 2


def test_nan_looks_like_no_value() -> None:
    values = np.full((12, 12), np.nan)
    coloured = colourise(values)
    shades = {tuple(colour) for colour in coloured.reshape(-1, 3).tolist()}
    assert len(shades) == 2  # a hatch
    for name in ("heat", "signed"):
        assert not shades & {tuple(colour) for colour in colour_table(name).tolist()}
    with pytest.raises(InputError, match="no colour map 'jet'"):
        colourise(values, "jet")  # type: ignore[arg-type]


# Scale


def test_per_sample_and_shared() -> None:
    maps = [np.array([[0.0, 1.0]]), np.array([[0.0, 4.0]])]
    scaled, scales = scale_maps(maps, "per sample")
    assert [s.tolist() for s in scaled] == [[[0, 1]], [[0, 1]]]
    assert [(s.lo, s.hi) for s in scales] == [(0, 1), (0, 4)]
    scaled, scales = scale_maps(maps, "shared")
    assert [s.tolist() for s in scaled] == [[[0, 0.25]], [[0, 1]]]
    assert scales[0] is scales[1]
    assert scales[0].describe() == "scale shared: 0 to 4"


def test_the_lower_end_is_zero_or_the_minimum_where_negative() -> None:
    assert (find_scale([[[3.0, 4.0]]]).lo, find_scale([[[-1.0, 4.0]]]).lo) == (0.0, -1.0)
    assert find_scale([[[3.0, 4.0]]], floor="min").lo == 3.0
    assert find_scale([[[3.0, 4.0]]]).apply([[3.0, 4.0]]).tolist() == [[0.75, 1.0]]


@pytest.mark.parametrize("value", [0.0, 0.5, -2.0, 1e-30, 7e7])
@pytest.mark.parametrize("how", ["per sample", "shared", "quantile", "shared quantile"])
def test_a_constant_map_is_cold_and_says_so(value: float, how: str) -> None:
    noise = value * (1 + 1e-8 * RNG.standard_normal((4, 4)))
    for constant in (np.full((4, 4), value), noise):
        (scaled,), (scale,) = scale_maps([constant], how)  # type: ignore[arg-type]
        assert (scaled == 0).all()
        assert scale.flat
        assert f"constant {value:.3g}" in scale.describe()


def test_a_constant_map_among_others_keeps_its_level() -> None:
    scaled, _ = scale_maps([np.full((2, 2), 0.5), np.array([[0.0, 1.0]])], "shared")
    assert (scaled[0] == 0.5).all()


def test_fixed_scale_is_the_users_word() -> None:
    (scaled,), (scale,) = scale_maps([[[-1.0, 0.0, 5.0, 10.0, 99.0]]], (0.0, 10.0))
    assert scaled.tolist() == [[0, 0, 0.5, 1, 1]]
    assert scale.describe() == "scale fixed: 0 to 10"
    for wrong in ((1.0, 1.0), (2.0, 1.0), (0.0, float("nan")), (0.0, float("inf"))):
        with pytest.raises(InputError, match="two finite numbers"):
            find_scale([[[1.0]]], wrong)


def test_quantile_is_not_darkened_by_one_hot_pixel() -> None:
    values = np.linspace(0, 1, 1000).reshape(10, 100)
    values[0, 0] = 1000.0
    assert find_scale([values], "quantile").hi == pytest.approx(0.99, abs=0.01)
    sparse = peak(3, 3, (20, 20))
    assert find_scale([sparse], "quantile").hi == 1.0  # the quantile is 0, nothing would be left to see
    with pytest.raises(InputError, match="quantile"):
        find_scale([values], "quantile", quantile=1.5)


def test_scale_of_nan_infinite_and_enormous_values() -> None:
    scale = find_scale([[[np.nan, 1.0, 2.0, np.inf]]])
    assert (scale.lo, scale.hi) == (0.0, 2.0)
    applied = scale.apply([[np.nan, 1.0, np.inf]])
    assert np.isnan(applied[0, 0])
    assert applied[0, 1:].tolist() == [0.5, 1.0]
    assert find_scale([[[np.nan]]]).flat
    assert find_scale([[[-1.7e308, 1.7e308]]]).apply([[-1.7e308, 0.0, 1.7e308]]).tolist() == [[0, 0.5, 1]]
    assert find_scale([[[0.0, 5e-324]]]).apply([[0.0, 5e-324]])[0, 0] == 0


def test_signed_scale_keeps_zero_in_the_middle() -> None:
    scale = find_scale([[[-1.0, 0.0, 4.0]]], signed=True)
    assert (scale.lo, scale.hi) == (-4.0, 4.0)
    assert scale.apply([[0.0, 4.0, -4.0, -1.0]]).tolist() == [[0.5, 1.0, 0.0, 0.375]]
    assert find_scale([[[0.0]]], signed=True).apply([[0.0]]).tolist() == [[0.5]]


def test_maps_may_be_tensors_of_any_type() -> None:
    expected = [[0.0, 0.5, 1.0]]
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        tensor = torch.tensor([[0, 1, 2]], dtype=dtype)
        assert scale_maps([tensor])[0][0].tolist() == expected
    assert scale_maps([torch.tensor([[0.0, 1, 2]], requires_grad=True)])[0][0].tolist() == expected
    with pytest.raises(InputError, match=r"shape \(H, W\), got shape \(1, 2, 2\).*maps\[0\]"):
        find_scale([torch.zeros(1, 2, 2)])
    with pytest.raises(InputError, match="got shape"):
        find_scale([np.zeros((0, 4))])
    with pytest.raises(InputError, match="no map"):
        find_scale([])
    with pytest.raises(InputError, match="no scale 'global'"):
        find_scale([[[1.0]]], "global")  # type: ignore[arg-type]


# Overlay


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_hotter_pixel_is_lighter_on_any_even_picture(level: int) -> None:
    ramp = np.linspace(0, 1, 64)[None].repeat(4, 0)
    shown = light(overlay(Image.new("RGB", (64, 4), (level,) * 3), ramp))
    assert (np.diff(shown[0]) > -0.3).all()  # the rounding to one byte
    assert (np.diff(shown[0, ::4]) > 0).all()
    assert shown[0, -1] - shown[0, 0] > 40


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (3, 3), (6, 2), (5, 6)])
def test_the_hottest_cell_is_the_hottest_place_of_the_overlay(row: int, column: int) -> None:
    shown = light(overlay(Image.new("RGB", (140, 70), (90, 90, 90)), peak(row, column)))
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert (int(y) // 10, int(x) // 20) == (row, column)


def test_box_mapping_is_exact() -> None:
    picture = Image.new("RGB", (100, 60), (90, 90, 90))
    cells = np.array([[4.0, 3.0], [2.0, 1.0]])
    box = (20.0, 10.0, 60.0, 50.0)
    shown = np.asarray(overlay(picture, cells, box=box, resample="nearest", alpha=1, dim=1, scale=(0, 4)))
    outside = np.ones((60, 100), dtype=bool)
    outside[10:50, 20:60] = False
    assert (shown[outside] == 90).all()  # nothing is spilt
    colours = colourise(cells / 4)
    for y, x in np.ndindex(2, 2):
        assert (shown[10 + 20 * y : 30 + 20 * y, 20 + 20 * x : 40 + 20 * x] == colours[y, x]).all()


def test_a_box_between_pixels_owns_the_pixels_whose_centre_it_holds() -> None:
    for start, stop, expected in (
        (1.4, 3.6, [1, 2, 3]),
        (1.6, 3.4, [2]),
        (1.5, 3.5, [1, 2]),
        (-5.0, 1.0, [0]),
        (4.2, 99, [4]),
    ):
        covered, _ = weights(5, start, stop, 3)
        assert list(range(5))[covered] == expected


def test_a_box_beyond_the_picture_shows_its_inner_part() -> None:
    # Padded to a square before the network: the picture is the middle third of what it saw.
    cells = np.array([[9.0], [5.0], [7.0]])
    shown = overlay(Image.new("RGB", (30, 10)), cells, box=(0, -10, 30, 20), resample="nearest", alpha=1, scale=(0, 10))
    assert (np.asarray(shown) == colourise(np.array([[0.5]]))[0, 0]).all()


def test_outside_the_box_is_dimmed_and_inside_not() -> None:
    picture = Image.new("RGB", (40, 40), (200, 100, 40))
    shown = overlay(picture, peak(0, 0), box=(10, 10, 30, 30), alpha=0, dim=0.5)
    assert shown.getpixel((2, 2)) == (100, 50, 20)
    assert shown.getpixel((20, 20)) == (200, 100, 40)
    assert shown.size == picture.size


@pytest.mark.parametrize(("h", "w", "height", "width"), [(7, 7, 224, 224), (3, 5, 31, 47), (1, 1, 8, 8), (4, 4, 4, 4)])
def test_enlarging_is_the_bicubic_of_torch(h: int, w: int, height: int, width: int) -> None:
    raw = torch.from_numpy(RNG.standard_normal((1, 1, h, w)))
    expected = torch.nn.functional.interpolate(raw, (height, width), mode="bicubic", align_corners=False)[0, 0].numpy()
    (_, down), (_, across) = weights(height, 0, height, h), weights(width, 0, width, w)
    np.testing.assert_allclose(down @ raw[0, 0].numpy() @ across.T, expected, atol=1e-12)


def test_shrinking_is_the_antialiased_bicubic_of_torch() -> None:
    raw = torch.from_numpy(RNG.standard_normal((1, 1, 50, 40)))
    expected = torch.nn.functional.interpolate(raw, (20, 7), mode="bicubic", antialias=True)[0, 0].numpy()
    (_, down), (_, across) = weights(20, 0, 20, 50), weights(7, 0, 7, 40)
    np.testing.assert_allclose(down @ raw[0, 0].numpy() @ across.T, expected, atol=1e-6)


def test_no_rims_beyond_the_values_that_are_there() -> None:
    picture = Image.new("RGB", (70, 70), (90, 90, 90))
    cold = overlay(picture, np.zeros((7, 7)), scale=(-1, 1))
    shown = overlay(picture, peak(3, 3), scale=(-1, 1))  # bicubic would dip below zero around the peak
    assert light(shown).min() == light(cold).min()


def test_nan_cells_are_hatched_and_spoil_nothing_else() -> None:
    picture = Image.new("RGB", (70, 70), (90, 90, 90))
    values = peak(6, 6)
    plain = np.asarray(overlay(picture, values, alpha=1))
    values[0, 0] = np.nan
    shown = np.asarray(overlay(picture, values, alpha=1))
    assert np.isin(shown[:10, :10], (150, 190)).all()
    mask = np.ones((70, 70), dtype=bool)
    mask[:10, :10] = False
    assert (shown[mask] == plain[mask]).all()
    assert np.isin(np.asarray(overlay(picture, np.full((2, 2), np.nan), alpha=1)), (150, 190)).all()


def test_heat_blending_leaves_the_cold_as_it_was() -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (70, 70, 3), dtype=np.uint8))
    shown = np.asarray(overlay(picture, peak(6, 6), blend="heat", resample="nearest"))
    assert (shown[:60, :60] == np.asarray(picture)[:60, :60]).all()
    assert (shown[65, 65] != np.asarray(picture)[65, 65]).any()
    signed = np.asarray(overlay(picture, peak(6, 6) - peak(0, 0), colours="signed", resample="nearest"))
    assert (signed[10:60, 10:60] == np.asarray(picture)[10:60, 10:60]).all()
    gray = np.asarray(overlay(Image.new("L", (70, 70), 128), peak(6, 6) - peak(0, 0), colours="signed")).astype(int)
    assert gray[2, 2, 2] > gray[2, 2, 0] + 20  # negative: blue
    assert gray[67, 67, 0] > gray[67, 67, 2] + 20  # positive: red


def test_the_picture_shows_through() -> None:
    checker = (np.indices((64, 64)).sum(0) // 8 % 2 * 255).astype(np.uint8)
    contrast = light(overlay(Image.fromarray(checker), peak(3, 3)))
    hot = contrast[24:40, 24:40]
    assert np.ptp(hot) > 20
    assert overlay(Image.fromarray(checker), peak(3, 3), alpha=0).getpixel((12, 0)) == (255, 255, 255)


def test_large_pictures_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (50, 40, 3), dtype=np.uint8))
    values = RNG.random((7, 7))
    whole = np.asarray(overlay(picture, values, box=(3, 4, 37, 45)))
    monkeypatch.setattr(importlib.import_module("squeezecam.render.overlay"), "_ROWS_AT_ONCE", 34 * 3)
    assert (np.asarray(overlay(picture, values, box=(3, 4, 37, 45))) == whole).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"box": (5, 5, 5, 9)}, "x1 > x0"),
        ({"box": (0, 0, float("nan"), 9)}, "x1 > x0"),
        ({"alpha": 1.5}, "alpha"),
        ({"dim": -1}, "dim"),
        ({"blend": "screen"}, "no blending 'screen'"),
        ({"scale": "shared"}, r"needs all maps at once; pass scale=find_scale\(maps, 'shared'\)"),
    ],
)
def test_overlay_says_what_is_wrong(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        overlay(Image.new("RGB", (10, 10)), peak(0, 0), **options)  # type: ignore[arg-type]


# Text

STRANGE = ["naïve Größe", "猫 0.5", "😀", "a\x00b\x07", "\ud800", "one\ttwo", "é", "→ ≥ 98 %", "שלום", "", " "]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line of text that is drawn."""
    lines: list[str] = []
    real = text.draw_text

    def record(draw: object, xy: object, line: str, *rest: object) -> None:
        lines.append(line)
        real(draw, xy, line, *rest)  # type: ignore[arg-type]

    for module in (text, parts, chart):
        monkeypatch.setattr(module, "draw_text", record)
    return lines


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known about fonts yet, and nothing said."""
    known = (text._drawable, text._font_with)
    for function in known:
        function.cache_clear()
    monkeypatch.setattr(text, "_told", [])
    yield
    for function in known:
        function.cache_clear()


@pytest.fixture
def no_fonts(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without any font."""
    monkeypatch.setattr(text, "_fallback_fonts", tuple)
    monkeypatch.setattr(text, "_system_fonts", tuple)


@pytest.mark.filterwarnings("ignore:no font of this system")
@pytest.mark.parametrize("words", STRANGE)
@pytest.mark.parametrize("fallbacks", ["fresh", "no_fonts"])
def test_strange_text_is_drawn(words: str, fallbacks: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(fallbacks)
    block = text.text_block(words, 200, 14)
    assert block.width == 200
    assert (np.asarray(block).min() < 128) == bool(words.strip())


@pytest.mark.usefixtures("no_fonts")
def test_letters_that_no_font_has_are_told_once_and_classes_keep_their_number(drawn: list[str]) -> None:
    from squeezecam.commands.predictions import Prediction

    with pytest.warns(SqueezeWarning, match="'三毛猫'.*SQUEEZECAM_FONT") as told:
        assert [text.drawable(words) for words in ("三毛猫", "日本語")] == [False, False]
    assert len(told) == 1
    assert text.drawable("naïve?")
    assert Prediction(7, "三毛猫", 0.5, 1.0).title() == "class 7: 三毛猫 · 50.0%"
    assert Prediction(7, "cat", 0.5, 1.0).title() == "cat · 50.0%"


@pytest.mark.usefixtures("fresh")
def test_a_font_that_is_somewhere_on_the_system_is_found_by_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = text._fallback_fonts()
    if not known:
        pytest.skip("this system has no font to try it with")
    (tmp_path / "fonts" / "deep").mkdir(parents=True)
    (tmp_path / "fonts" / "a_broken.ttf").write_bytes(b"no font")
    shutil.copy(known[0], tmp_path / "fonts" / "deep" / "some.ttf")
    monkeypatch.setattr(text, "_fallback_fonts", tuple)
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    text._system_fonts.cache_clear()
    try:
        assert text._drawable("Привет", 12)[0] == "Привет"
        assert Path(str(text._drawable("Привет", 12)[1].path)).name == "some.ttf"  # type: ignore[union-attr]
    finally:
        text._system_fonts.cache_clear()


def test_of_a_long_name_and_its_number_the_name_is_cut(drawn: list[str]) -> None:
    name = "a class name that goes on and on, and on, until it is far beyond the edge of any tile that there could be"
    tile(Image.new("RGB", (50, 50)), caption=f"file.png\n{name} · 98.2%", size=200)
    assert drawn[0] == "file.png"
    assert len(drawn) == 3
    assert drawn[1].startswith("a class name")
    assert drawn[2].endswith("... · 98.2%")
    assert text.shorten(f"{name} · 98.2%", 150, 12).endswith("... · 98.2%")
    assert text.text_width(text.shorten(f"{name} · 98.2%", 150, 12), 12) <= 150
    assert text.wrap(f"{name * 3} · 98.2%\nmore", 150, 12, 3)[2].endswith("... · 98.2%")
    assert text.wrap("one\ntwo · 5%\nthree", 150, 12, 2) == ["one", "two · 5%..."]
    assert text.shorten(f"short · {name}", 150, 12).startswith("short · a class")  # what does not fit is no number


@pytest.mark.filterwarnings("ignore:no font of this system")
@pytest.mark.usefixtures("no_fonts")
def test_without_fonts_accents_go_and_the_rest_is_a_question_mark() -> None:
    assert text._drawable("naïve 猫 → 5 \u2212 3", 12)[0] == "naive ? -> 5 - 3"
    assert text._drawable("7 digit · 98.2 %", 12)[0] == "7 digit · 98.2 %"


def test_lines_fit_and_what_is_cut_says_so() -> None:
    long = "a long title with many words and averyveryverylongwordwithoutanyspaceinit that goes on and on"
    lines = text.wrap(long, 150, 14, max_lines=20)
    assert "".join(lines).replace(" ", "") == long.replace(" ", "")
    assert all(text.text_width(line, 14) <= 150 for line in lines)
    cut = text.wrap(long, 150, 14, max_lines=2)
    assert len(cut) == 2
    assert cut[1].endswith("...")
    assert text.text_width(cut[1], 14) <= 150
    assert text.wrap("one\ntwo", 150, 14, 5) == ["one", "two"]
    assert text.shorten("short", 150, 14) == "short"
    assert text.wrap("x" * 50, 5, 14, 3)[-1].endswith("...")  # narrower than a letter: still ends


def test_a_font_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEEZECAM_FONT", "/nowhere/font.ttf")
    text._font.cache_clear()
    text._drawable.cache_clear()
    with pytest.raises(InputError, match=r"SQUEEZECAM_FONT names /nowhere/font\.ttf"):
        text.text_width("unseen text", 14)
    monkeypatch.undo()
    text._font.cache_clear()


# Figures


def test_the_panel_says_what_it_shows(drawn: list[str]) -> None:
    picture = Image.new("RGB", (100, 80), (90, 90, 90))
    panel(
        picture, peak(1, 2) * 0.0123, title="7 digit · 98.2 %", footer="method: published", notice="unfitted block",
        raw=peak(1, 2) * 0.0123, box=(10, 0, 90, 80),
    )  # fmt: skip
    for line in (
        "7 digit · 98.2 %", "method: published", "unfitted block", "scale per sample: 0 to 0.0123", "0", "0.00615",
        "0.0123", "picture · 100 x 80 pixels", "overlay · the model saw what is framed", "native grid · 7 x 7",
    ):  # fmt: skip
        assert line in drawn


def test_the_panel_holds_the_overlay_at_its_place() -> None:
    image = panel(Image.new("RGB", (64, 64), (90, 90, 90)), peak(0, 0, (4, 4)), size=128)
    second = image.crop((16 + 128 + 12, 16, 16 + 128 + 12 + 128, 16 + 128))
    y, x = np.unravel_index(light(second).argmax(), (128, 128))
    assert y < 32
    assert x < 32
    first = np.asarray(image.crop((16, 16, 16 + 128, 16 + 128)))
    assert (first == 90).all()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (1, 600), (3000, 2), (37, 500), (640, 480)])
def test_pictures_of_any_size_make_a_legible_panel(size: tuple[int, int]) -> None:
    image = panel(Image.new("RGB", size, (10, 200, 30)), RNG.random((7, 7)), title="x " * 200, footer="y " * 2000)
    assert 400 <= image.width <= 1600
    assert 100 <= image.height <= 1100
    assert image.mode == "RGB"


def test_small_pictures_are_enlarged_pixel_by_pixel() -> None:
    pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    shown = np.asarray(parts.fit(Image.fromarray(pixels), 330, 330))
    assert shown.shape == (328, 328, 3)
    assert (shown == pixels.repeat(41, 0).repeat(41, 1)).all()


def test_fitted_pictures_keep_their_aspect() -> None:
    assert parts.fit(Image.new("RGB", (400, 200)), 100, 100).size == (100, 50)
    assert parts.fit(Image.new("RGB", (300, 200)), 600, 600).size == (600, 400)
    assert parts.fit(Image.new("RGB", (1, 5000)), 100, 100).size == (1, 100)
    shown = parts.fit_area(Image.new("RGB", (200, 800)), 320)
    assert shown.size == (160, 640)
    box = parts.scaled_box((20, 40, 100, 80), Image.new("RGB", (200, 800)), shown)
    assert box == pytest.approx((16, 32, 80, 64))


def test_the_bar_is_hot_at_the_top_and_at_the_right() -> None:
    scale = Scale(0.0, 1.0)
    upright = light(upright_bar(scale, 200, "heat"))[3:-3, BAR // 2]
    assert (np.diff(upright) <= 0).all()
    assert upright[0] - upright[-1] > 80
    level = light(level_bar(scale, 200, "heat"))[BAR // 2, 3:-3]
    assert (np.diff(level) >= 0).all()
    cold = light(upright_bar(Scale(0.5, 0.5, flat=True), 200, "heat"))[3:-3, BAR // 2]
    assert cold.max() < 5  # a constant map is all cold, and so is its bar


def test_the_sheet_shows_all_panels_and_one_scale(drawn: list[str]) -> None:
    shades = [(10 * i + 5, 0, 0) for i in range(5)]
    tiles = [Image.new("RGB", (50, 40 + i), shade) for i, shade in enumerate(shades)]
    sheet = contact_sheet(tiles, columns=2, title="five", footer="method", scale=find_scale([peak(0, 0)]))
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert set(shades) <= colours
    assert {"five", "method", "scale shared: 0 to 1"} <= set(drawn)
    assert contact_sheet(tiles, columns=99).width > contact_sheet(tiles, columns=1).width
    assert contact_sheet(tiles[:1]).height < contact_sheet(tiles, columns=1).height
    with pytest.raises(InputError, match="no pictures"):
        contact_sheet([])
    with pytest.raises(InputError, match="at least one column"):
        contact_sheet(tiles, columns=0)
    with pytest.raises(InputError, match="fewer pictures"):
        contact_sheet([Image.new("RGB", (20_000, 1))] * 2 + [Image.new("RGB", (1, 9_000))], columns=1)


def test_a_tile_has_its_caption_and_numbers(drawn: list[str]) -> None:
    picture = Image.new("RGB", (30, 20))
    tile(picture, peak(0, 0) * 3, caption="cat", notice="unfitted")
    assert drawn == ["cat", "unfitted", "0 to 3"]
    drawn.clear()
    tile(picture, np.ones((3, 3)))
    assert drawn == ["constant 1"]
    drawn.clear()
    tile(picture, peak(0, 0), show_scale=False)
    tile(picture)
    assert drawn == []


def grid_scales(drawn: list[str]) -> list[str]:
    return [line for line in drawn if line.startswith(("0 to", "constant"))]


def test_the_grid_is_labelled_and_scaled_as_asked(drawn: list[str]) -> None:
    pictures = [Image.new("RGB", (40, 30), (90, 90, 90))] * 2
    maps = [[peak(0, 0), peak(0, 0) * 10], [peak(0, 0) * 2, None]]
    names = {"column_labels": ["published", "Grad-CAM"], "row_labels": ["cat", "dog"]}
    captions = [["1.02 forwards", "1.7 forwards"], ["1.02 forwards", "failed"]]
    comparison_grid(pictures, maps, captions=captions, title="compared", footer="note", **names)
    assert {
        "picture",
        "published",
        "Grad-CAM",
        "cat",
        "dog",
        "compared",
        "note",
        "no map",
        "failed",
        "1.7 forwards",
    } <= set(drawn)
    assert grid_scales(drawn) == ["0 to 1", "0 to 10", "0 to 2"]
    assert {"lowest", "highest"} <= set(drawn)
    for scale, expected in (
        ("row", ["0 to 10", "0 to 10", "0 to 2"]),
        ("column", ["0 to 2", "0 to 10", "0 to 2"]),
        ("shared", []),
    ):
        drawn.clear()
        comparison_grid(pictures, maps, scale=scale, **names)  # type: ignore[arg-type]
        assert grid_scales(drawn) == expected
    assert "scale shared: 0 to 10" in drawn
    assert "10" in drawn  # at the end of the one bar
    drawn.clear()
    comparison_grid(pictures, maps, scale=(0, 5), **names)
    assert "scale fixed: 0 to 5" in drawn


def test_a_grid_that_does_not_add_up_is_refused() -> None:
    picture = Image.new("RGB", (4, 4))
    with pytest.raises(InputError, match="maps has 1 rows for 2 pictures"):
        comparison_grid([picture] * 2, [[peak(0, 0)]], column_labels=["a"])
    with pytest.raises(InputError, match="row 0 of maps has 1 entries for 2 columns"):
        comparison_grid([picture], [[peak(0, 0)]], column_labels=["a", "b"])
    with pytest.raises(InputError, match="row_labels has 2 rows"):
        comparison_grid([picture], [[peak(0, 0)]], column_labels=["a"], row_labels=["x", "y"])
    with pytest.raises(InputError, match="at least one picture"):
        comparison_grid([], [], column_labels=["a"])
    comparison_grid([picture], [[None]], column_labels=["a"], scale="shared")  # nothing to scale: shown as such


def bar_lengths(image: Image.Image, colour: tuple[int, int, int]) -> list[int]:
    rows = (np.asarray(image) == colour).all(-1).sum(1)
    starts = np.flatnonzero((rows > 0) & (np.roll(rows, 1) == 0))
    return [int(rows[start]) for start in starts]


def test_bars_are_as_long_as_their_values(drawn: list[str]) -> None:
    image = bar_chart([("a", 0.5), ("b", 1.0), ("c", 0.25), ("d", float("nan"))], marked=["b"], title="t", footer="f")
    first, third = bar_lengths(image, chart._PLAIN)
    (second,) = bar_lengths(image, chart._MARKED)
    assert first / second == pytest.approx(0.5, abs=0.01)
    assert third / second == pytest.approx(0.25, abs=0.01)
    assert sorted(drawn) == sorted(["t", "a", "0.5", "b", "1", "c", "0.25", "d", "nan", "f"])
    negative, positive = bar_lengths(bar_chart([("a", -2.0), ("b", 1.0)]), chart._PLAIN)
    assert negative / positive == pytest.approx(2, abs=0.03)
    (half,) = bar_lengths(bar_chart([("a", 0.5)], limits=(0, 1)), chart._PLAIN)
    (full,) = bar_lengths(bar_chart([("a", 0.5)]), chart._PLAIN)
    assert half / full == pytest.approx(0.5, abs=0.01)
    drawn.clear()
    bar_chart([("a", 0.708)], value_format=".1%")
    assert "70.8%" in drawn
    assert bar_lengths(bar_chart([("zero", 0.0)]), chart._PLAIN) == []
    with pytest.raises(InputError, match="no bars"):
        bar_chart([])
    with pytest.raises(InputError, match="limits"):
        bar_chart([("a", 1.0)], limits=(1, 0))


# Tables

ROWS = [
    {"method": "published", "drop": 0.123456, "n": 250},
    {"method": "猫|b", "drop": float("nan"), "n": 3, "note": "two\nlines"},
    {"method": "c", "drop": None, "n": np.int64(4)},
]


def test_text_table_lines_up() -> None:
    table = text_table(ROWS)
    assert table == "\n".join(
        [
            "method       drop    n  note",
            "---------  ------  ---  ---------",
            "published  0.1235  250  -",
            "猫|b          nan    3  two lines",
            "c               -    4  -",
        ]
    )
    assert text_table(ROWS, ["drop"], formats={"drop": ".2f"}).splitlines() == ["drop", "----", "0.12", " nan", "   -"]
    assert text_table([], ["a", "b"]) == "a  b\n-  -"
    assert text_table([]) == "\n"


def test_markdown_table_escapes_its_own_signs() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert lines[1] == "| --- | ---: | ---: | --- |"
    assert lines[3] == r"| 猫\|b | nan | 3 | two lines |"


def test_csv_keeps_every_digit() -> None:
    values = [{"a": 1 / 3, "b": 'quoted, "text"'}, {"a": None, "c": np.float64(0.1)}]
    read = list(csv.DictReader(io.StringIO(csv_table(values))))
    assert float(read[0]["a"]) == 1 / 3
    assert read[0]["b"] == 'quoted, "text"'
    assert (read[1]["a"], read[1]["c"]) == ("", "0.1")
