"""Reading pictures: right pixels from every mode, clear refusals, sources with unique safe names."""

from __future__ import annotations

import io
import threading
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from squeezecam.data import images, pixels
from squeezecam.data.images import find_images, read_image, safe_name
from squeezecam.errors import InputError

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def quadrants() -> Image.Image:
    """Four colours, wider than high: left top red, right top green, left bottom blue, right bottom white."""
    picture = Image.new("RGB", (24, 16), RED)
    picture.paste(GREEN, (12, 0, 24, 8))
    picture.paste(BLUE, (0, 8, 12, 16))
    picture.paste(WHITE, (12, 8, 24, 16))
    return picture


def corners(picture: Image.Image) -> list[tuple[int, int, int]]:
    w, h = picture.size
    points = ((2, 2), (w - 3, 2), (2, h - 3), (w - 3, h - 3))
    return [picture.getpixel(point) for point in points]


def gray(path: Path) -> list[int]:
    picture = read_image(path)
    assert picture.mode == "RGB"
    values = np.asarray(picture)
    assert (values == values[..., :1]).all()
    return values[..., 0].reshape(-1).tolist()


# Where the corners of `quadrants` go when a viewer obeys the tag, from its definition in EXIF 2.3: row 0 and column 0
# of what is stored are, on the upright picture, at ...
UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],  # top, left
    2: [GREEN, RED, WHITE, BLUE],  # top, right
    3: [WHITE, BLUE, GREEN, RED],  # bottom, right
    4: [BLUE, WHITE, RED, GREEN],  # bottom, left
    5: [RED, BLUE, GREEN, WHITE],  # left, top
    6: [BLUE, RED, WHITE, GREEN],  # right, top
    7: [WHITE, GREEN, BLUE, RED],  # right, bottom
    8: [GREEN, WHITE, RED, BLUE],  # left, bottom
}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format_that_has_one(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    quadrants().save(path, exif=exif, **options)
    picture = read_image(path)
    assert picture.size == ((16, 24) if orientation >= 5 else (24, 16))
    np.testing.assert_allclose(corners(picture), UPRIGHT[orientation], atol=3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_senseless_orientation_is_ignored(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    quadrants().save(tmp_path / "a.png", exif=exif)
    assert corners(read_image(tmp_path / "a.png")) == UPRIGHT[1]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage", quality=100, subsampling=0)
    np.testing.assert_allclose(corners(read_image(tmp_path / "a.jpg")), UPRIGHT[1], atol=3)


def test_transparency_is_laid_over_white_or_what_is_asked(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 128)])
    picture.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert [read.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (255, 127, 127)]
    read = read_image(tmp_path / "a.png", background=(0, 0, 255))
    assert [read.getpixel((x, 0)) for x in range(3)] == [RED, BLUE, (128, 0, 127)]


def test_gray_with_alpha(tmp_path: Path) -> None:
    picture = Image.new("LA", (3, 1))
    picture.putdata([(40, 255), (40, 0), (0, 128)])
    picture.save(tmp_path / "a.png")
    assert gray(tmp_path / "a.png") == [40, 255, 127]


def palette() -> Image.Image:
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 100, 50, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    return picture


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette().save(tmp_path / "plain.png")
    read = read_image(tmp_path / "plain.png")
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(200, 100, 50), BLUE]
    for name, transparency in (("index.png", 1), ("index.gif", 1), ("bytes.png", b"\xff\x00")):
        palette().save(tmp_path / name, transparency=transparency)
        read = read_image(tmp_path / name)
        assert [read.getpixel((x, 0)) for x in (0, 1)] == [(200, 100, 50), WHITE], name


def test_colour_key_transparency_without_alpha_channel(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "rgb.png", transparency=BLUE)
    assert corners(read_image(tmp_path / "rgb.png")) == [RED, GREEN, WHITE, WHITE]
    Image.new("L", (1, 1), 7).save(tmp_path / "l.png", transparency=7)
    assert gray(tmp_path / "l.png") == [255]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_keeps_its_colours(tmp_path: Path, suffix: str) -> None:
    # JPEG stores CMYK inverted, with Adobe's marker; TIFF does not. Inks: none is white, cyan takes the red away.
    for name, inks, colour in (
        ("w", (0, 0, 0, 0), WHITE),
        ("c", (255, 0, 0, 0), (0, 255, 255)),
        ("k", (0, 0, 0, 255), BLACK),
    ):
        path = tmp_path / f"{name}{suffix}"
        Image.new("CMYK", (16, 16), inks).save(path)
        if suffix == ".jpg":
            assert b"Adobe" in path.read_bytes()
        np.testing.assert_allclose(read_image(path).getpixel((8, 8)), colour, atol=3)


LEVELS = np.array([[0, 257, 32896, 65535]])


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", "<u2"), ("a.tif", "<u2"), ("big.tif", ">u2"), ("i.tif", "<i4"), ("a.pgm", "pgm")]
)
def test_16_bit_gray_is_scaled_by_its_full_range(tmp_path: Path, name: str, dtype: str) -> None:
    if dtype == "pgm":
        (tmp_path / name).write_bytes(b"P5 4 1 65535\n" + LEVELS.astype(">u2").tobytes())
    elif dtype == ">u2":
        Image.frombytes("I;16B", (4, 1), LEVELS.astype(">u2").tobytes()).save(tmp_path / name)
    else:
        Image.fromarray(LEVELS.astype(dtype)).save(tmp_path / name)
    with Image.open(tmp_path / name) as opened:
        assert opened.mode.startswith("I")
    assert gray(tmp_path / name) == [0, 1, 128, 255]


def test_fewer_bits_in_a_16_bit_picture_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_dark_named", threading.Event())
    for name, highest in (("night.png", 5000), ("black.png", 0)):
        Image.fromarray(np.array([[0, highest]], dtype="<u2")).save(tmp_path / name)
    for name, highest in (("twelve.png", 4095), ("again.png", 255)):
        Image.fromarray(np.array([[0, highest]], dtype="<u2")).save(tmp_path / name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name in ("night.png", "black.png", "twelve.png", "again.png"):
            gray(tmp_path / name)
    assert len(said) == 1
    assert "twelve.png is 16-bit gray and its largest value is 4095 of 65535" in str(said[0].message)


def test_32_bit_values_beyond_16_bits_are_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1000, 0, 1000]], dtype=np.int32)).save(tmp_path / "a.tif")
    assert gray(tmp_path / "a.tif") == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.25, 0.5], [0, 64, 128]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([-2.0, 0.0, 2.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([float("nan"), 0.5, float("inf")], [0, 128, 255]),
        ([7000.0, 7000.0, 7000.0], [0, 0, 0]),
    ],
)
def test_floating_point_tiff(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    assert gray(tmp_path / "a.tif") == expected


def test_one_bit_one_pixel_lab_and_animation(tmp_path: Path) -> None:
    one = Image.new("1", (2, 1))
    one.putpixel((1, 0), 1)
    one.save(tmp_path / "one.png")
    assert gray(tmp_path / "one.png") == [0, 255]
    Image.new("L", (1, 1), 77).save(tmp_path / "dot.png")
    assert gray(tmp_path / "dot.png") == [77]
    Image.new("LAB", (1, 1), (255, 128, 128)).save(tmp_path / "lab.tif")
    np.testing.assert_allclose(read_image(tmp_path / "lab.tif").getpixel((0, 0)), WHITE, atol=2)
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == RED


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
def test_a_truncated_jpeg_is_refused_even_where_another_library_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], fraction: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", **options)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: int(len(data) * fraction)])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # put back


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif", ".webp"])
def test_other_truncated_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\{suffix}"):
        read_image(path)


def test_one_clear_line_for_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    for given, said in (
        ("text.jpg", "not a picture in a known format"),
        ("empty.png", r"is empty \(0 bytes\)"),
        ("nowhere.png", "no such file: .*nowhere"),
        ("script.eps", "not a picture"),  # never handed to a PostScript interpreter
        ("", "is a folder"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            read_image(tmp_path / given)
        assert "\n" not in str(caught.value)


def huge_png(path: Path, side: int) -> None:
    """A header of side x side pixels and no pixels: refusing works from the header, decoding would fail."""
    chunk = b"IHDR" + side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + chunk + crc + b"\x00\x00\x10\x00IDAT")


def test_too_large_is_refused_from_the_header(tmp_path: Path) -> None:
    huge_png(tmp_path / "a.png", 20_000)
    with pytest.raises(InputError, match=r"20000 x 20000 = 400,000,000 pixels.*--max-pixels") as caught:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="damaged or incomplete"):  # the limit raised: it is decoded, and is incomplete
        read_image(tmp_path / "a.png", max_pixels=None)
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    assert read_image(tmp_path / "small.png", max_pixels=100).size == (10, 10)
    with pytest.raises(InputError, match="limit of 99"):
        read_image(tmp_path / "small.png", max_pixels=99)


def test_pillow_is_left_as_it_was_by_many_threads(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.png")
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    threads = [threading.Thread(target=lambda: [read_image(tmp_path / "a.png") for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    assert pixels._users == 0


# Finding


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def names(found: list[images.ImageSource]) -> list[str]:
    return [source.name for source in found]


def test_a_folder_is_searched_deep_sorted_naturally_without_hidden_files(tmp_path: Path) -> None:
    make(tmp_path, "img10.png", "img2.PNG", "b/img1.jpg", ".hidden/x.png", "__MACOSX/y.png", ".z.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.npz").write_bytes(b"not for us")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert names(find_images(tmp_path)) == ["img1", "img2", "img10"]


def test_names_of_one_stem_are_told_apart(tmp_path: Path) -> None:
    make(tmp_path, "a/cat.png", "b/cat.png", "b/CAT.jpg", "b/dog.png", "c/bird.png", "c/bird.gif")
    found = find_images([tmp_path / "a" / "cat.png", tmp_path / "b", tmp_path / "c", tmp_path / "b" / "dog.png"])
    unique = {name.casefold() for name in names(found)}
    assert len(unique) == len(found) == 7
    by_label = {source.label: source.name for source in found}
    assert by_label[str(tmp_path / "a" / "cat.png")] == "a_cat_png"
    assert by_label[str(tmp_path / "b" / "CAT.jpg")] == "b_CAT_jpg"
    assert {by_label[str(tmp_path / "c" / f"bird.{suffix}")] for suffix in ("png", "gif")} == {"bird_png", "bird_gif"}
    assert [source.name for source in found if source.path.stem == "dog"] == ["b_dog_png", "b_dog_png_2"]


def test_a_name_made_longer_does_not_take_one_that_is_there(tmp_path: Path) -> None:
    make(tmp_path, "x.png", "x.gif", "x_gif.png")
    found = names(find_images(tmp_path))
    assert "x_gif" in found
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("a b/c:d", "a_b_c_d"), ("..", "image"), ("CON", "_CON"), ("nul.x", "_nul.x"), ("-rf", "rf"), ("été", "été"),
        ("a\nb\x00", "a_b"), ("", "image"), ("100%", "100"), ("猫", "猫"), ("\udcff", "image"),
    ],
)  # fmt: skip
def test_safe_names(stem: str, expected: str) -> None:
    assert safe_name(stem) == expected


def test_a_long_safe_name_leaves_room_for_suffixes() -> None:
    assert len(safe_name("é" * 300).encode()) == 120


def test_patterns_are_expanded_when_the_shell_did_not(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/10.png", "a/2.png", "b/3.jpg", "literal[1].png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert names(find_images(str(tmp_path / "a" / "*"))) == ["1", "2", "10"]
    assert names(find_images(str(tmp_path / "*" / "*.jpg"))) == ["3"]
    assert sorted(names(find_images(str(tmp_path / "**")))) == ["1", "10", "2", "3", "literal[1]"]
    assert names(find_images(str(tmp_path / "literal[1].png"))) == ["literal[1]"]  # a file of that name comes first
    assert names(find_images(str(tmp_path / "[ab]"))) == ["1", "2", "10", "3"]  # folders that match


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images in the folder .*\.jpg .*\.png"):
        find_images(tmp_path)
    with pytest.raises(InputError, match=r"no images match '.*\*\.jpg'.*\.png"):
        find_images(str(tmp_path / "*.jpg"))
    with pytest.raises(InputError, match="no images given"):
        find_images([])
    with pytest.raises(InputError, match="empty file name"):
        find_images([""])


def test_one_missing_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    found = find_images([tmp_path / "missing.png", tmp_path / "a.png", tmp_path / "gone.npz"])
    assert names(found) == ["missing", "a", "gone"]
    assert found[1].read().size == (2, 2)
    for place in (0, 2):
        with pytest.raises(InputError, match="no such file"):
            found[place].read()


def test_options_reach_the_reader(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    (source,) = find_images(tmp_path, background=RED)
    assert source.read().getpixel((0, 0)) == RED
    (source,) = find_images(tmp_path, max_pixels=15)
    with pytest.raises(InputError, match="limit of 15"):
        source.read()


# Archives


def test_npz_of_every_shape_and_type(tmp_path: Path) -> None:
    pattern = np.array([[[0, 51], [102, 255]]], dtype=np.uint8)
    for key, array in {
        "hw": pattern, "hw1": pattern[..., None], "hw3": np.repeat(pattern[..., None], 3, -1),
        "float": pattern / 255, "half": (pattern / 255).astype(np.float16), "16": pattern.astype(np.uint16) * 257,
    }.items():  # fmt: skip
        np.savez(tmp_path / f"{key}.npz", images=array)
        (source,) = find_images(tmp_path / f"{key}.npz")
        assert source.name == f"{key}_0"
        assert source.label.endswith(f"{key}.npz[0]")
        assert np.asarray(source.read())[..., 0].tolist() == pattern[0].tolist(), key
    np.savez(tmp_path / "bool.npz", images=np.array([[[True, False]]]))
    assert np.asarray(find_images(tmp_path / "bool.npz")[0].read())[0, :, 1].tolist() == [255, 0]
    np.savez(tmp_path / "rgba.npz", images=np.array([[[[255, 0, 0, 255], [255, 0, 0, 0]]]], dtype=np.uint8))
    assert np.asarray(find_images(tmp_path / "rgba.npz")[0].read()).tolist() == [[list(RED), list(WHITE)]]


def test_npz_order_names_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.arange(12, dtype=np.uint8).reshape(12, 1, 1), labels=np.arange(12)[::-1])
    found = find_images(tmp_path / "set.npz")
    assert names(found)[:3] == ["set_00", "set_01", "set_02"]
    assert [source.target for source in found] == list(range(11, -1, -1))
    assert [source.read().getpixel((0, 0)) for source in found] == [(value, value, value) for value in range(12)]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"data": np.zeros(3)}, r"no array named 'images' \(it holds: data\)"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, r"shape \(2, 3, 8, 8\); expected .*last"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "is empty"),
        ({"images": np.zeros((1, 8, 8), np.int64)}, "int64; expected uint8"),
        ({"images": np.array([[[None]]], dtype=object)}, "object; expected uint8"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, r"shape \(3,\); expected .*\(2,\)"),
    ],
)
def test_an_archive_that_cannot_be_used_says_why(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        find_images(tmp_path / "a.npz")


def test_archive_values_out_of_range_damage_and_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "nan.npz", images=np.array([[[0.0, np.nan]], [[0.0, 1.0]]]))
    first, second = find_images(tmp_path / "nan.npz")
    with pytest.raises(InputError, match=r"picture 0 .* NaN"):
        first.read()
    assert second.read().getpixel((1, 0)) == (255, 255, 255)  # one bad picture does not spoil the rest
    for bad in (np.array([[[0.0, 255.0]]]), np.array([[[-1.0, 1.0]]])):
        np.savez(tmp_path / "a.npz", images=bad)
        (source,) = find_images(tmp_path / "a.npz")
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            source.read()
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match=r"cannot read .*text\.npz as an \.npz archive"):
        find_images(tmp_path / "text.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"shape": (1, 20000, 20000, 3), "fortran_order": False, "descr": "|u1"}
    )
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(InputError, match=r"20000 x 20000.*--max-pixels"):
        find_images(tmp_path / "huge.npz")
    with pytest.raises(InputError, match="cannot read 'images'"):
        find_images(tmp_path / "huge.npz", max_pixels=None)[0].read()
