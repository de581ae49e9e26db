"""The command line as a user meets it: what is written, what is said, and what happens when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from squeezecam.cli import main
from squeezecam.data.images import find_images

FACTORIES = """
import time
import torch
from torch import nn

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 8), nn.ReLU())
        self.kind, self.years = nn.Linear(16, 2), nn.Linear(16, 1)
        self.years.bias.data += 40
    def forward(self, x):
        z = self.features(x).mean((2, 3))
        return {"kind": self.kind(z), "years": self.years(z)[:, 0]}

class Net(nn.Module):
    def __init__(self, seconds=0.0, fail=None):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 8), nn.ReLU())
        self.fc = nn.Linear(16, 4)
        self.seconds, self.fail = seconds, fail
    def forward(self, x):
        time.sleep(self.seconds)
        if self.fail is not None and (x.amax((1, 2, 3)) < 0).any():  # an all but black picture
            raise self.fail
        return self.fc(self.features(x).mean((2, 3)))

def pixels(picture):
    import numpy as np
    return torch.from_numpy(np.array(picture.resize((64, 64)))).permute(2, 0, 1).float() / 255 - 0.1

def standardised(picture):
    x = pixels(picture)
    return (x - x.mean()) / x.std()

class Decision(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 8), nn.ReLU())
        self.fc = nn.Linear(16, 1)
        self.fc.bias.data -= 5
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

def decision(): return Decision(), pixels
def heads(): return Heads(), pixels
def net(): return Net(), pixels
def slow(): return Net(seconds=0.15), pixels
def picky(): return Net(fail=ValueError("too dark\\nto see")), pixels
def interrupted(): return Net(fail=KeyboardInterrupt()), pixels
def each_standardised(): return Net(), standardised
def flipped(): return Net(), lambda picture: pixels(picture).flip(2)
def bare(): return Net()
def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3)), pixels
def raises(): raise RuntimeError("no weights\\nto be found")
def with_nan():
    model = Net()
    model.features[0].weight.data[0, 0, 0, 0] = float("nan")
    return model, pixels
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SQUEEZECAM_DEBUG", raising=False)

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["squeezecam", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        code = left.value.code
        return Ran(0 if code is None else int(code), captured.out, captured.err)

    return call


def scene(width: int = 80, height: int = 60) -> Image.Image:
    """A bright disc off the centre, on a ramp: no two orientations look alike."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([40 + x, 60 + y, np.full_like(x, 90)], -1).astype(np.uint8)
    pixels[(x - 0.7 * width) ** 2 + (y - 0.3 * height) ** 2 < 0.03 * width * height] = (240, 200, 30)
    return Image.fromarray(pixels)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    scene().save(path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "factories.py"
    path.write_text(FACTORIES)
    return path


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def left_behind(folder: Path) -> list[str]:
    """Temporary files, of ours or of a trial whether the folder can be written to."""
    return [path.name for path in folder.rglob(".*")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line of text that is drawn on a picture."""
    from squeezecam.render import text

    lines: list[str] = []
    real = text.draw_text

    def record(draw: Any, xy: Any, line: str, *rest: Any) -> None:
        lines.append(line)
        real(draw, xy, line, *rest)

    monkeypatch.setattr(text, "draw_text", record)
    return lines


def pixels_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# --- what is written ------------------------------------------------------------------------------------


def save_twins(folder: Path) -> dict[str, tuple[int, int]]:
    """Pictures in many forms, each as ``a_NAME`` beside the plain RGB picture ``b_NAME`` that it must be read as."""
    rgb, sizes = scene(), {}

    def twins(name: str, suffix: str, picture: Image.Image, meant: Image.Image, **options: Any) -> None:
        picture.save(folder / f"a_{name}.{suffix}", **options)
        meant.convert("RGB").save(folder / f"b_{name}.png")
        sizes[name] = meant.size

    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.tile(np.where(np.arange(80) > 20, 255, 0).astype(np.uint8), (60, 1))))
    white = Image.new("RGBA", rgb.size, "white")
    twins("rgba", "png", alpha, Image.alpha_composite(white, alpha))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    twins("palette", "png", palette, palette)
    cmyk = rgb.convert("CMYK")
    twins("cmyk", "tif", cmyk, cmyk)
    gray = rgb.convert("L")
    twins("gray", "png", gray, gray)
    twins("sixteen", "png", Image.fromarray(np.asarray(gray).astype(np.uint16) * 257), gray)
    twins("one_bit", "png", rgb.convert("1"), rgb.convert("1"))
    exif = Image.Exif()
    exif[0x0112] = 6
    twins("turned", "png", rgb, rgb.transpose(Image.Transpose.ROTATE_270), exif=exif)
    twins("dot", "png", Image.new("RGB", (1, 1), (30, 200, 90)), Image.new("RGB", (1, 1), (30, 200, 90)))
    wide = scene(600, 4)
    twins("wide", "png", wide, wide)
    return sizes


def test_every_form_of_picture_is_explained_as_it_is_meant_to_be_seen(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sizes = save_twins(tmp_path / "in")
    ran = run("explain", "in", "--out", "out")
    assert (ran.code, ran.err) == (0, "")
    out, rows = tmp_path / "out", {row["name"]: row for row in results(tmp_path / "out")["results"]}
    assert len(rows) == 2 * len(sizes)
    for name, (width, height) in sizes.items():
        assert pixels_of(out / f"a_{name}.overlay.png").shape == (height, width, 3), name
        np.testing.assert_array_equal(
            pixels_of(out / f"a_{name}.overlay.png"), pixels_of(out / f"b_{name}.overlay.png"), err_msg=name
        )
        assert rows[f"a_{name}"]["probability"] == pytest.approx(rows[f"b_{name}"]["probability"], abs=1e-5)
    assert not left_behind(out)


def test_files_rows_and_maps_belong_together(run: Run, photo: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "stack.npz", images=np.stack([np.asarray(scene())] * 2))
    ran = run("explain", photo, tmp_path / "stack.npz", "in/*.png", "--out", "out")
    found = results(tmp_path / "out")
    assert ran.code == 0
    assert found["asked"] == found["explained"] == len(found["results"]) == 4
    assert found["failed"] == []
    assert not found["interrupted"]
    assert len({row["name"] for row in found["results"]}) == 4
    for row in found["results"]:
        assert row["label"] in "0123456789"
        assert 0 < row["probability"] <= 1
        assert row["seen_box"] == [0, 0, 80, 60]
        for file in row["files"].values():
            assert (tmp_path / "out" / file).is_file()
        with np.load(tmp_path / "out" / row["files"]["maps"]) as maps:
            assert set(maps) == {"heatmap", "raw", "gates", "kept"}
            assert maps["heatmap"].shape == (96, 96)
            assert maps["raw"].shape == (12, 12)
            assert maps["gates"].shape == maps["kept"].shape == (192,)
            assert maps["kept"].dtype == np.bool_
            assert maps["heatmap"].max() == pytest.approx(row["hottest"])
    assert pixels_of(tmp_path / "out" / "contact_sheet.png").shape[1] > 400
    assert "4 of 4 pictures explained" in ran.out
    assert "out" in ran.out.splitlines()[-1]


def test_without_an_adapter_the_class_map_is_shown_and_said_to_be_it(run: Run, photo: Path, tmp_path: Path) -> None:
    ran = run("explain", photo)
    assert "no adapter: the class map is shown" in ran.out
    assert "doubt" not in ran.out
    row = results(tmp_path / "out")["results"][0]
    assert row["method"] == "class"
    assert "not fitted" in row["status"]


def test_a_mirrored_preprocessing_has_its_maps_turned_back(
    run: Run, photo: Path, models: Path, tmp_path: Path, drawn: list[str]
) -> None:
    plain = np.asarray(scene())
    Image.fromarray(plain[:, ::-1]).save(tmp_path / "in" / "turned.png")
    words = "the model sees the picture mirrored left to right"
    for scale in ("per sample", "shared"):
        assert run("explain", photo, "--model", f"{models}:net", "--scale", scale, "--out", "a").code == 0
        assert words not in " ".join(drawn)
        ran = run("explain", tmp_path / "in" / "turned.png", "--model", f"{models}:flipped", "--scale", scale, "--out",
                  "b")  # fmt: skip
        assert "doubt" not in ran.out
        assert words in " ".join(drawn)
        drawn.clear()
        one, other = pixels_of(tmp_path / "a" / "photo.overlay.png"), pixels_of(tmp_path / "b" / "turned.overlay.png")
        assert np.abs(one.astype(int) - other[:, ::-1]).max() <= 2  # the same picture, seen in a mirror
    (row,) = results(tmp_path / "b")["results"]
    assert row["seen_mirrored"] == [True, False]
    assert row["seen_box"] == [0, 0, 80, 60]
    methods = ["--methods", "class", "--out"]
    assert run("compare", photo, "--model", f"{models}:net", *methods, "c").code == 0
    assert run("compare", tmp_path / "in" / "turned.png", "--model", f"{models}:flipped", *methods, "d").code == 0
    one, other = (pixels_of(tmp_path / name / "comparison.png") for name in "cd")
    tile = np.s_[84:252, 308:476]  # the picture with its map
    assert one[tile].std() > 30
    assert np.abs(one[tile].astype(int) - other[tile][:, ::-1]).mean() < 1


def test_random_weights_are_said_on_every_picture(run: Run, photo: Path, tmp_path: Path, drawn: list[str]) -> None:
    assert run("explain", photo, "--random", "--out", "a").code == 0
    assert " ".join(drawn).count("random weights: predictions and maps mean nothing") == 2  # the panel and the sheet
    assert results(tmp_path / "a")["cautions"] == ["random weights: predictions and maps mean nothing"]
    drawn.clear()
    assert run("compare", photo, "--random", "--methods", "class", "--out", "b").code == 0
    assert "random weights: predictions and maps mean nothing" in " ".join(drawn)
    drawn.clear()
    assert run("explain", photo, "--out", "c").code == 0
    assert run("compare", photo, "--methods", "class", "--out", "d").code == 0
    assert not any("random" in line for line in drawn)


def test_a_preprocessing_that_is_a_guess_is_said_on_the_terminal_and_on_every_picture(
    run: Run, photo: Path, models: Path, tmp_path: Path, drawn: list[str]
) -> None:
    said, words = "nothing says how pictures are preprocessed for bare", "preprocessing assumed: RGB, squashed to"
    ran = run("explain", photo, "--model", f"{models}:bare", "--out", "a")
    assert said in ran.lines[0]
    assert "return (model, preprocess)" in ran.lines[0]
    assert " ".join(drawn).count(words) == 2
    assert results(tmp_path / "a")["cautions"][0].startswith(words)
    drawn.clear()
    ran = run("compare", photo, "--model", f"{models}:bare", "--methods", "class", "--out", "b")
    assert said in ran.err
    assert words in " ".join(drawn)
    evaluated = run("evaluate", "--data", photo, "--model", f"{models}:bare", "--methods", "class", "--metrics",
                    "map_area", "--out", "c")  # fmt: skip
    assert said in evaluated.err
    assert f"caution: {words}" in evaluated.out
    assert said in run("fit", "--images", photo, "--model", f"{models}:bare", "--out", "d").err
    drawn.clear()
    ran = run("explain", photo, "--model", f"{models}:net", "--out", "e")
    assert ran.err == ""
    assert not any("assumed" in line for line in drawn)


def test_methods_side_by_side_say_which_block_is_not_fitted(
    run: Run, photo: Path, pictures: Path, models: Path, tmp_path: Path, drawn: list[str]
) -> None:
    model, said = f"{models}:net", "block not fitted: its gates select nothing"
    methods = ["--methods", "published,contribution,class,all-channel-mean"]
    ran = run("compare", pictures, "--model", model, *methods, "--out", "a")
    line = f"published, contribution: {said}, fit it first (all 12 pictures)"
    assert f"in doubt: {line}" in ran.out
    assert line in " ".join(drawn)
    found = json.loads((tmp_path / "a" / "comparison.json").read_text())
    assert found["doubts"] == {name: {f"{said}, fit it first": 12} for name in ("published", "contribution")}
    assert list(found["pictures"][0]["doubts"]) == ["published", "contribution"]
    assert run("fit", "--images", pictures, "--model", model, "--out", "net.safetensors").code == 0
    assert found["pictures"][0]["label"].startswith("class ")
    assert all(source.name in " ".join(drawn) for source in find_images(pictures))  # beside its row
    drawn.clear()
    ran = run("compare", photo, "--model", model, "--adapter", "net.safetensors", *methods, "--target", 2, "--out", "b")
    assert "in doubt" not in ran.out  # also not that a map is the same for every class: it always is
    assert not any("not fitted" in line or "every class" in line for line in drawn)
    assert json.loads((tmp_path / "b" / "comparison.json").read_text())["doubts"] == {}


def test_json_is_the_only_thing_on_standard_output(run: Run, photo: Path, tmp_path: Path) -> None:
    ran = run("explain", photo, "--json", "--target", 7, "--method", "contribution", "--keep", "topk:3")
    assert json.loads(ran.out) == results(tmp_path / "out")
    row = json.loads(ran.out)["results"][0]
    assert (row["target"], row["label"]) == (7, "7")
    assert row["method"] == "contribution, keep=topk:3"
    assert row["share_kept"] == pytest.approx(3 / 192)


def test_class_names_come_from_the_file_and_a_wrong_number_is_said(run: Run, photo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"name{i}\n" for i in range(10)))
    ran = run("explain", photo, "--labels", names, "--target", 4)
    assert results(tmp_path / "out")["results"][0]["label"] == "name4"
    assert ran.err == ""
    names.write_text("a\nb\n")
    ran = run("explain", photo, "--labels", names, "--target", 4)
    assert results(tmp_path / "out")["results"][0]["label"] == "class 4"
    assert "2 class names" in ran.err
    assert "10 classes" in ran.err
    compared = run("compare", photo, "--labels", names, "--methods", "class")
    assert compared.err == ran.err


def test_a_shared_scale_reaches_to_the_hottest_of_all(run: Run, photo: Path, tmp_path: Path) -> None:
    from squeezecam.render.overlay import overlay
    from squeezecam.render.scale import Scale

    scene().convert("L").point(lambda value: value // 3).save(photo.with_name("dark.png"))
    assert run("explain", "in", "--scale", "shared").code == 0
    rows = results(tmp_path / "out")["results"]
    top = max(row["hottest"] for row in rows)
    assert min(row["hottest"] for row in rows) < 0.9 * top
    for row in rows:
        with np.load(tmp_path / "out" / row["files"]["maps"]) as maps, Image.open(row["file"]) as picture:
            drawn = overlay(picture.convert("RGB"), maps["heatmap"], box=tuple(row["seen_box"]), scale=Scale(0.0, top))
        np.testing.assert_array_equal(pixels_of(tmp_path / "out" / row["files"]["overlay"]), np.asarray(drawn))


def test_a_quantile_scale_is_hotter_than_one_up_to_the_maximum(run: Run, photo: Path, tmp_path: Path) -> None:
    run("explain", photo, "--out", "a")
    run("explain", photo, "--out", "b", "--scale", "quantile")
    first, second = (pixels_of(tmp_path / name / "photo.overlay.png").astype(int) for name in "ab")
    assert (second - first).max() > 0
    assert (second - first).mean() > 0


def test_several_outputs_are_named_and_chosen(run: Run, photo: Path, models: Path, tmp_path: Path) -> None:
    model = f"{models}:heads"
    ran = run("explain", photo, "--model", model)
    found = results(tmp_path / "out")
    assert found["output"] == "kind"
    assert found["results"][0]["target"] in (0, 1)
    assert "--output chooses another (years)" in ran.out
    assert run("explain", photo, "--model", model, "--output", "years").code == 0
    row = results(tmp_path / "out")["results"][0]
    assert (row["label"], row["target"], row["probability"]) == ("years", None, None)
    assert row["value"] == pytest.approx(40, abs=3)


def test_one_logit_is_a_decision_when_told_and_the_adapter_remembers(
    run: Run, photo: Path, models: Path, tmp_path: Path
) -> None:
    model = f"{models}:decision"
    ran = run("explain", photo, "--model", model)
    assert "--task binary explains its sides" in ran.out
    row = results(tmp_path / "out")["results"][0]
    assert (row["label"], row["target"], row["probability"]) == ("value", None, None)
    value = row["value"]
    assert value < -3
    ran = run("explain", photo, "--model", model, "--task", "binary")
    assert "--task" not in ran.out
    told = results(tmp_path / "out")["results"][0]
    assert (told["label"], told["target"]) == ("negative side", 0)
    assert told["probability"] == pytest.approx(1 / (1 + np.exp(value)))
    assert told["value"] == pytest.approx(value)
    for i in range(20):
        scene(60 + i, 50).save(photo.with_name(f"more{i}.png"))
    adapter = tmp_path / "d.squeeze.safetensors"
    ran = run("fit", "--images", photo.parent, "--model", model, "--task", "binary", "--out", adapter)
    assert ran.code == 0
    assert "binary on 'output'" in ran.out
    assert run("explain", photo, "--model", model, "--adapter", adapter, "--method", "class").code == 0
    assert results(tmp_path / "out")["results"][0]["label"] == "negative side"
    assert "expected binary, classification, multi-label or regression" in run("explain", photo, "--task", "yes").err


def test_pictures_named_like_our_own_files_do_not_collide(run: Run, photo: Path, tmp_path: Path) -> None:
    for name in ("photo.overlay.png", "contact_sheet.png", "contact_sheet_.png"):
        scene().save(photo.with_name(name))
    assert run("explain", "in").code == 0
    files = [file for row in results(tmp_path / "out")["results"] for file in row["files"].values()]
    assert len(files) == len(set(files)) == 12
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files, "contact_sheet.png", "results.json"}


# --- one bad picture does not stop the rest -----------------------------------------------------------


def test_bad_pictures_are_one_line_each_and_the_rest_is_done(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    scene(400, 300).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    bad = ["missing.png", "text.jpg", "cut.jpg", "huge.png"]
    ran = run("explain", *bad[:2], photo, *bad[2:])
    assert ran.code == 1
    assert len(ran.lines) == len(bad) + 1
    for name, line in zip(bad, ran.lines, strict=False):
        assert name in line
    assert "--max-pixels" in ran.lines[3]
    assert "4 pictures could not be used" in ran.lines[4]
    found = results(tmp_path / "out")
    assert [row["name"] for row in found["results"]] == ["photo"]
    assert [entry["file"] for entry in found["failed"]] == bad
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_the_limit_on_pixels_is_an_option(run: Run, photo: Path) -> None:
    assert run("explain", photo, "--max-pixels", 80 * 60).code == 0
    assert run("explain", photo, "--max-pixels", 80 * 60 - 1).code == 1


def test_a_picture_that_the_model_cannot_take_is_left_out_of_its_batch(
    run: Run, photo: Path, models: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (9, 9)).save(photo.with_name("black.png"))
    ran = run("explain", "in", "--model", f"{models}:picky")
    assert ran.code == 1
    assert [row["name"] for row in results(tmp_path / "out")["results"]] == ["photo"]
    assert "black.png" in ran.lines[0]
    assert "too dark to see" in ran.lines[0]


# --- what cannot be done at all: one line, nothing written --------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["empty"], "no images in the folder"),
        (["in/*.gif"], "no images match"),
        (["in", "--model", "factories.py:mlp"], "no feature map"),
        (["in", "--model", "factories.py:raises"], "no weights to be found"),
        (["in", "--model", "factories.py:absent"], "absent"),
        (["in", "--model", "nonsense"], "nonsense"),
        (["in", "--adapter", "none.safetensors"], "no such adapter"),
        (["in", "--adapter", "cut.safetensors"], "not a complete safetensors file"),
        (["in", "--adapter", "whole.safetensors", "--model", "factories.py:net"], "DemoNet"),
        (["in", "--adapter", "whole.safetensors", "--at", "features"], "--at"),
        (["in", "--target", "99"], "0 to 9"),
        (["in", "--method", "magic"], "magic"),
        (["in", "--keep", "magic"], "magic"),
        (["in", "--scale", "magic"], "magic"),
        (["in", "--apply", "magic"], "magic"),
        (["in", "--output", "magic"], "magic"),
        (["in", "--at", "magic"], "magic"),
        (["in", "--device", "magic"], "magic"),
        (["in", "--weights", "none.pt"], "none.pt"),
        (["in", "--labels", "none.txt"], "none.txt"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(
    run: Run, photo: Path, models: Path, adapter: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "whole.safetensors").write_bytes(adapter.read_bytes())
    (tmp_path / "cut.safetensors").write_bytes(adapter.read_bytes()[:5000])
    ran = run("explain", *options, "--out", "new/out")
    assert ran.code == 1
    assert ran.out == ""
    assert len(ran.lines) == 1
    assert said in ran.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_place_of_the_output_folder(run: Run, photo: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    ran = run("explain", photo, "--out", out)
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert "file" in ran.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", [["explain"], ["compare"], ["evaluate", "--data"]])
@pytest.mark.parametrize("out", ["in", "."])
def test_the_pictures_themselves_are_never_overwritten(run: Run, photo: Path, command: list[str], out: str) -> None:
    before = photo.read_bytes()
    ran = run(*command, photo, "--out", out)
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert "holds a picture that is to be" in ran.err
    assert "--out" in ran.err
    assert photo.read_bytes() == before
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


class Disk:
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open(self, *arguments: Any) -> Any:
        disk, file = self, open(*arguments)  # noqa: SIM115

        class Handle:
            def __enter__(self) -> Handle:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, data: bytes) -> int:
                disk.room -= len(data)
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(file.write(data))

        return Handle()


def test_a_full_disk_is_one_line_and_nothing_is_written(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeezecam.files.open", Disk(100).open, raising=False)
    ran = run("explain", photo)
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert "no space left" in ran.err.lower()
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_whole_sets_only(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "bcdef":
        scene().save(photo.with_name(f"{name}.png"))
    run("explain", photo, "--out", "measure")
    room = sum((tmp_path / "measure" / name).stat().st_size for name in ("photo.png", "photo.overlay.png", "photo.npz"))
    monkeypatch.setattr("squeezecam.files.open", Disk(int(2.5 * room)).open, raising=False)
    ran = run("explain", "in")
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert "no space left" in ran.err.lower()
    kept = {path.name for path in (tmp_path / "out").iterdir()} - {"results.json", "contact_sheet.png"}
    assert kept == {f"{name}{suffix}" for name in "bc" for suffix in (".png", ".overlay.png", ".npz")}


@pytest.mark.parametrize(
    "arguments",
    [[], ["explain"], ["explain", "--bogus"], ["explian", "x"], ["explain", "x", "--batch-size", "0"], ["fit"]],
)
def test_wrong_usage_is_exit_code_2_with_a_hint(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert "Usage: squeezecam" in ran.out + ran.err


def test_the_version(run: Run) -> None:
    import squeezecam

    assert run("--version") == (0, f"squeezecam {squeezecam.__version__}\n", "")


# --- NaN --------------------------------------------------------------------------------------------------


def test_nan_in_the_weights_is_said_in_the_results_and_on_the_picture(
    run: Run, photo: Path, models: Path, tmp_path: Path
) -> None:
    ran = run("explain", photo, "--model", f"{models}:with_nan")
    row = results(tmp_path / "out")["results"][0]
    assert "not finite" in row["status"]
    assert row["probability"] is None
    assert "not finite" in ran.out
    panel = pixels_of(tmp_path / "out" / "photo.png").astype(int)
    amber = (panel[..., 0] > 140) & (panel[..., 2] < 60) & (panel[..., 1] < 130)
    assert amber[:90].sum() > 100  # the notice above the pictures
    overlay = pixels_of(tmp_path / "out" / "photo.overlay.png")
    assert len(np.unique(overlay.reshape(-1, 3), axis=0)) > 2  # a hatch over the picture, not a blank


def test_nan_in_one_input_leaves_its_neighbours_in_the_batch_alone(
    run: Run, photo: Path, models: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20), (7, 7, 7)).save(photo.with_name("flat.png"))  # 0 / 0 when standardised
    run("explain", "in", "--model", f"{models}:each_standardised")
    status = {row["name"]: row["status"] for row in results(tmp_path / "out")["results"]}
    assert "not finite" in status["flat"]
    assert "not finite" not in status["photo"]


# --- fit ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the demo network, fitted on a few of its own pictures."""
    import torch

    import squeezecam
    from squeezecam.data.demo import DemoImages
    from squeezecam.models.demo import demo_model

    pictures = DemoImages("train", 24).batch(range(24)).images
    squeeze = squeezecam.attach(demo_model()[0], torch.zeros(2, 3, 96, 96))
    squeeze.fit([pictures], inputs=lambda batch: batch, progress=False)
    path = tmp_path_factory.mktemp("adapter") / "demo.squeeze.safetensors"
    squeeze.save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve different pictures in an archive."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", images=noise)
    return tmp_path / "pictures.npz"


def test_a_fitted_block_explains_by_the_published_rule(
    run: Run, photo: Path, pictures: Path, models: Path, tmp_path: Path
) -> None:
    model = f"{models}:heads"
    ran = run("fit", "--model", model, "--images", pictures, "--output", "kind", "--out", "new/a.safetensors")
    assert ran.code == 0
    assert "predictions unchanged" in ran.out
    assert "wrote new/a.safetensors" in ran.out
    explain = ("explain", photo, "--model", model, "--adapter", "new/a.safetensors", "--method", "published")
    ran = run(*explain)
    assert ran.code == 0
    assert "no adapter" not in ran.out
    found = results(tmp_path / "out")
    assert found["adapter"] == "new/a.safetensors"
    assert found["results"][0]["method"].startswith("published")
    assert "fitted for output" not in found["results"][0]["status"]
    run(*explain, "--output", "years")
    assert (
        "the block was fitted for output 'kind', not for 'years'" in results(tmp_path / "out")["results"][0]["status"]
    )


def test_what_is_fitted_after_the_block_is_kept_beside_it(
    run: Run, photo: Path, pictures: Path, models: Path, tmp_path: Path
) -> None:
    ran = run(
        "fit", "--images", pictures, "--tune", "--refine", "--refine-epochs", "1", "--locate",
        "--out", "a.safetensors", "--json",
    )  # fmt: skip
    assert ran.code == 0
    report = json.loads(ran.out)
    assert report["tuned"]["samples"] + report["tuned"]["held_out"] == 12
    assert report["refiner"]["epochs"] == 1
    assert report["refiner"]["samples"] + report["refiner"]["held_out"] == 12
    assert report["locator"]["samples"] + report["locator"]["held_out"] == 12
    for method, named in (("refined", "refined"), ("focus", "focus, fitted locator")):
        assert run("explain", photo, "--adapter", "a.safetensors", "--method", method).code == 0
        assert results(tmp_path / "out")["results"][0]["method"] == named
    model = f"{models}:net"  # its map is the first that it has
    ran = run("fit", "--model", model, "--images", pictures, "--locate", "--out", "b.safetensors")
    assert ran.code == 1
    assert "the model has none before it" in ran.lines[-1]
    assert (tmp_path / "b.safetensors").is_file()  # the block is kept


def test_fit_leaves_out_bad_pictures(run: Run, pictures: Path, tmp_path: Path) -> None:
    ran = run("fit", "--images", "missing.png", "--images", pictures, "--out", "a.safetensors", "--json")
    assert ran.code == 1
    assert "missing.png" in ran.lines[0]
    report = json.loads(ran.out)
    assert report["samples"] + report["held_out"] == 12
    assert (tmp_path / "a.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--images", "missing.png"], "0 of 1 picture could be read"),
        (["--images", "in"], "too few"),
        (["--images", "pictures.npz", "--output", "magic"], "magic"),
        (["--images", "pictures.npz", "--apply", "magic"], "magic"),
        (["--images", "pictures.npz", "--model", "factories.py:mlp"], "no feature map"),
        (["--images", "pictures.npz", "--images", "in", "--model", "factories.py:picky"], "too dark to see"),
        (["--images", "empty"], "no images in the folder"),
    ],
)
def test_a_fit_that_cannot_be_made_writes_nothing(
    run: Run, photo: Path, pictures: Path, models: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (9, 9)).save(photo.with_name("black.png"))
    np.savez(
        pictures, images=np.zeros((12, 32, 32, 3), np.uint8) if "factories.py:picky" in options else [scene()] * 12
    )
    ran = run("fit", *options, "--out", "new/a.safetensors")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.lines[-1]
    assert not (tmp_path / "new").exists()


def test_an_adapter_in_the_place_of_a_folder_is_refused_before_the_fit(run: Run, pictures: Path) -> None:
    ran = run("fit", "--images", pictures, "--out", ".")
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert "is a folder" in ran.err


# --- errors that nobody foresaw, and interrupts -------------------------------------------------------


def test_an_unexpected_error_is_one_line_unless_debugging(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr("squeezecam.commands.explain.explain_pictures", broken)
    ran = run("explain", photo)
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert "ZeroDivisionError: of all things" in ran.err
    assert "SQUEEZECAM_DEBUG=1" in ran.err
    monkeypatch.setenv("SQUEEZECAM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize("scale", ["per sample", "shared"])
def test_an_interrupt_keeps_what_is_finished(run: Run, photo: Path, models: Path, tmp_path: Path, scale: str) -> None:
    Image.new("RGB", (9, 9)).save(photo.with_name("z_black.png"))
    ran = run("explain", "in", "--model", f"{models}:interrupted", "--batch-size", 1, "--scale", scale)
    assert ran.code == 130
    assert "interrupted" in ran.lines[-1]
    found = results(tmp_path / "out")
    assert found["interrupted"]
    assert [row["name"] for row in found["results"]] == ["photo"]
    made = {"photo.png", "photo.overlay.png", "photo.npz", "contact_sheet.png", "results.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == made


def start(folder: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "squeezecam", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background, shells have it ignored
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, preexec_fn=heard, **(pipes | options))


def wait_for(seen: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_control_c_in_explain_keeps_whole_sets_and_leaves_no_traceback(
    pictures: Path, models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(tmp_path, "explain", pictures, "--model", f"{models}:slow", "--batch-size", 1)
    wait_for(lambda: len(list(out.glob("pictures*.overlay.png"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["interrupted: what is finished was kept"]
    rows = results(out)["results"]
    assert 1 <= len(rows) < 12  # the interrupt may undo the second set
    files = {file for row in rows for file in row["files"].values()}
    assert {path.name for path in out.iterdir()} == {*files, "contact_sheet.png", "results.json"}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_control_c_in_fit_leaves_nothing_but_what_was_there(pictures: Path, models: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    process = start(
        tmp_path,
        "fit",
        "--images",
        pictures,
        "--model",
        f"{models}:slow",
        "--batch-size",
        1,
        "--out",
        "new/a.safetensors",
    )
    wait_for((tmp_path / "new").is_dir, process)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="terminals and pipes of POSIX")
def test_a_terminal_gets_a_bar_and_a_reader_that_goes_away_is_no_error(
    pictures: Path, models: Path, tmp_path: Path
) -> None:
    master, terminal = os.openpty()
    read, write = os.pipe()
    os.close(read)
    arguments = ["explain", pictures, "--json", "--model", f"{models}:slow", "--batch-size", 2]
    process = start(tmp_path, *arguments, stdout=write, stderr=terminal)
    os.close(terminal)
    os.close(write)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(master)
    assert process.wait(timeout=60) == 1
    assert b"explaining" in shown
    assert b"12/12" in shown or b"10/12" in shown
    assert b"rror" not in shown
    assert len(results(tmp_path / "out")["results"]) == 12
