"""Video files among pictures: where their pieces begin, what is in them, and the commands that take them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")

from clips import write_clip
from squeezecam.data.clip_pieces import in_pieces, starts
from squeezecam.data.images import ImageSource, find_images
from squeezecam.errors import InputError, SqueezeWarning
from squeezecam.video.reading import frame_times, read_frames, read_from
from test_cli import Run, run
from test_clip_models import CONVOLUTIONS, RECURRENT

__all__ = ["run"]

RATE = 20
STEP = 8
"""Brightness that a frame has more than the one before."""


def counting(path: Path, frames: int, key_every: int | None = None, later: float = 0.0) -> Path:
    """A clip of gray frames, each brighter than the one before, so that its pixels tell its number."""
    return write_clip(
        path, rate=RATE, seconds=frames / RATE, audio=None, key_every=key_every, later=later,
        paint=lambda time: np.full((48, 64, 3), 20 + STEP * round(time * RATE), np.uint8),
    )  # fmt: skip


def numbers(source: ImageSource) -> list[int]:
    """Which frames of :func:`counting` a piece holds."""
    found = source.read_all()
    return [round((np.asarray(p).mean() - 20) / STEP) for p in (found if isinstance(found, list) else [found])]


def refuse(label: str, why: str) -> None:
    raise AssertionError(f"{label}: {why}")


def test_pieces_are_spread_from_end_to_end_and_never_over_each_other() -> None:
    assert starts(100, 20, 4) == [0, 26, 53, 80]
    assert starts(100, 20, 9) == [0, 20, 40, 60, 80]
    assert starts(39, 20, 4) == [0]
    assert starts(40, 20, 4) == [0, 20]
    assert starts(10, 20, 4) == [0]
    assert starts(5, 1, 9) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("key_every", "later"), [(None, 0.0), (4, 0.0), (4, 0.5)])
def test_windows_hold_the_frames_of_their_time(tmp_path: Path, key_every: int | None, later: float) -> None:
    counting(tmp_path / "a.mp4", 26, key_every, later)
    found = in_pieces(find_images(tmp_path / "a.mp4", clips=True), 6, 3, refuse)
    assert [numbers(one) for one in found] == [list(range(6)), list(range(10, 16)), list(range(20, 26))]
    assert [one.name for one in found] == ["a_1", "a_2", "a_3"]
    assert found[1].label.endswith("a.mp4 at 0.50 s")
    assert numbers(found[1]) == list(range(10, 16))  # as often as it is asked for


def disordered(path: Path, frames: int, codec: str, rate: int = RATE, options: dict[str, str] | None = None) -> Path:
    """A clip as of :func:`counting`, with frames that need later ones, and no picture that comes late."""
    import av

    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=rate, options=options or {})
        video.codec_context.gop_size, video.codec_context.max_b_frames = 12, 2
        video.width, video.height, video.pix_fmt, video.bit_rate = 64, 48, "yuv420p", 2_000_000
        for number in range(frames):
            pixels = np.full((48, 64, 3), 20 + 4 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options"),
    [
        ("a.mpg", "mpeg1video", 25, {}),  # no index, and a length guessed from the rate of bytes
        ("b.mpg", "mpeg2video", 25, {}),
        ("a.ts", "libx264", 25, {}),
        ("a.flv", "libx264", 25, {}),
        ("a.avi", "mpeg4", 20, {}),  # a format that cannot say when frames out of order are shown
        ("a.mkv", "libx264", 20, {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}),
    ],
)
def test_a_window_holds_what_decoding_all_gives(
    tmp_path: Path, name: str, codec: str, rate: int, options: dict[str, str]
) -> None:
    path = disordered(tmp_path / name, 50, codec, rate, options)
    decoded, times = list(read_frames(path)), frame_times(path)
    assert len(decoded) == len(times) == 50
    for first in range(0, 48):
        found = read_from(path, times[first], 3)
        assert [np.array_equal(a.pixels, b.pixels) for a, b in zip(found, decoded[first:], strict=False)] == [True] * 3
    last = in_pieces(find_images(path, clips=True), 6, 4, refuse)[-1].read_all()
    assert isinstance(last, list)
    assert [np.array_equal(a, b.pixels) for a, b in zip(last, decoded[44:], strict=True)] == [True] * 6


def test_a_late_picture_does_not_make_a_clip_longer(tmp_path: Path) -> None:
    counting(tmp_path / "a.mkv", 26, 4, later=3.0)  # says that it lasts 4.3 s
    found = in_pieces(find_images(tmp_path / "a.mkv", clips=True), 6, 3, refuse)
    assert [numbers(one) for one in found] == [list(range(6)), list(range(10, 16)), list(range(20, 26))]
    assert found[2].label.endswith("at 1.00 s")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_counted_where_their_rate_varies(tmp_path: Path, suffix: str) -> None:
    times = [i / 40 for i in range(12)] + [0.3 + i / 4 for i in range(12)]
    shown = {round(time * 1000): number for number, time in enumerate(times)}
    write_clip(
        tmp_path / f"a.{suffix}", times=times, audio=None,
        paint=lambda time: np.full((48, 64, 3), 20 + STEP * shown[round(time * 1000)], np.uint8),
    )  # fmt: skip
    found = in_pieces(find_images(tmp_path / f"a.{suffix}", clips=True), 6, 9, refuse)
    assert [numbers(one) for one in found] == [list(range(at, at + 6)) for at in (0, 6, 12, 18)]


def test_a_clip_that_breaks_off_is_cut_up_to_there_and_that_is_said(tmp_path: Path) -> None:
    counting(tmp_path / "a.mkv", 26, 4)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: int(len(data) * 0.6)])
    with pytest.warns(SqueezeWarning, match="breaks off at"):
        found = in_pieces(find_images(tmp_path / "a.mkv", clips=True), 3, 4, refuse)
    held = [numbers(one) for one in found]
    assert held[0] == [0, 1, 2]
    assert len(held) >= 2
    assert all(3 <= one[0] < one[2] < 20 for one in held[1:]), held


def test_a_clip_shorter_than_a_window_stands_still_before_it_moves(tmp_path: Path) -> None:
    found = in_pieces(find_images(counting(tmp_path / "a.mp4", 4), clips=True), 6, 3, refuse)
    assert [numbers(one) for one in found] == [[0, 0, 0, 1, 2, 3]]


def test_a_model_of_pictures_gets_single_frames(tmp_path: Path) -> None:
    found = in_pieces(find_images(counting(tmp_path / "a.mp4", 21), clips=True), None, 3, refuse)
    assert [numbers(one) for one in found] == [[0], [10], [20]]
    assert all(isinstance(one.read(), Image.Image) for one in found)


def test_folders_hold_pictures_and_clips_and_a_broken_clip_stops_nothing(tmp_path: Path) -> None:
    counting(tmp_path / "b.mp4", 12)
    (tmp_path / "c.mkv").write_bytes(b"no clip" * 99)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "d_1.png")
    counting(tmp_path / "d.mp4", 12)
    said: list[tuple[str, str]] = []
    found = in_pieces(find_images(tmp_path, clips=True), 6, 2, lambda label, why: said.append((label, why)))
    assert [one.name for one in found] == ["a", "b_1", "b_2", "d_1_mp4", "d_2", "d_1_png"]  # none twice
    assert [Path(label).name for label, _ in said] == ["c.mkv"]
    assert "cannot be read as a clip" in said[0][1]
    assert [one.name for one in find_images(tmp_path)] == [
        "a",
        "d_1",
    ]  # clips not asked for


@pytest.fixture
def clip_model(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(CONVOLUTIONS)
    return f"{tmp_path / 'own.py'}:net"


def test_fit_and_evaluate_on_clips(tmp_path: Path, clip_model: str, run: Run) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        counting(folder / f"{number}.mp4", 18 + number)
    adapter = "a.squeeze.safetensors"
    shown = run("fit", "--model", clip_model, "--images", folder, "--per-clip", 3, "--out", adapter)
    assert shown.code == 0, shown.err
    assert "held still" not in shown.err
    assert "samples: 7 fitted on, 2 held out" in shown.out
    shown = run("evaluate", "--model", clip_model, "--adapter", adapter, "--data", folder, "--per-clip", 2,
                "--methods", "published,class", "--out", "out")  # fmt: skip
    assert shown.code == 0, shown.err
    assert "6 images" in shown.out
    lines = (tmp_path / "out" / "evaluation.csv").read_text()
    assert {"published", "class", "all-channel-mean"} <= {line.split(",")[1] for line in lines.splitlines()}


@pytest.mark.parametrize("source", [CONVOLUTIONS, RECURRENT])
def test_methods_are_compared_on_windows_of_clips(tmp_path: Path, run: Run, source: str) -> None:
    counting(tmp_path / "a.mp4", 24)
    (tmp_path / "own.py").write_text(source)
    model = f"{tmp_path / 'own.py'}:net"
    shown = run("compare", "a.mp4", "--model", model, "--per-clip", 3, "--methods",
                "contribution,published,all-channel-mean", "--out", "out", "--json")  # fmt: skip
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert [row["method"] for row in found["methods"]] == ["contribution", "published", "all-channel-mean"]
    assert [row["file"].split(" at ")[1] for row in found["pictures"]] == ["0.00 s", "0.45 s", "0.90 s"]
    with Image.open(tmp_path / "out" / "comparison.png") as sheet:
        assert sheet.height > 3 * 168


def test_pictures_stand_still_for_a_model_of_clips_and_that_is_said(tmp_path: Path, clip_model: str, run: Run) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        Image.new("RGB", (32, 32), (25 * number, 40, 90)).save(folder / f"{number}.png")
    shown = run("fit", "--model", clip_model, "--images", folder, "--out", "a.squeeze.safetensors")
    assert shown.code == 0, shown.err
    assert "held still" in shown.err


def test_what_is_for_pictures_is_refused_before_the_work(tmp_path: Path, clip_model: str, run: Run) -> None:
    counting(tmp_path / "a.mp4", 24)
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na.mp4,1,1,9,9\n")
    shown = run("evaluate", "--model", clip_model, "--data", "a.mp4", "--boxes", "boxes.csv", "--out", "out")
    assert shown.code != 0
    assert "leave --boxes out" in shown.err
    assert not (tmp_path / "out").exists()
    shown = run(
        "fit", "--model", clip_model, "--images", "a.mp4", "--per-clip", 9, "--tune", "--out", "a.squeeze.safetensors"
    )
    assert shown.code != 0
    assert "has 3 axes" in shown.err
    assert not (tmp_path / "a.squeeze.safetensors").exists()
    shown = run("explain", "a.mp4", "--model", clip_model, "--out", "out")
    assert "squeezecam video" in shown.err


def test_a_box_of_a_clip_is_not_that_of_its_frames(tmp_path: Path, run: Run) -> None:
    counting(tmp_path / "a.mp4", 24)
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na.mp4,1,1,9,9\n")
    shown = run("evaluate", "--model", "demo", "--data", "a.mp4", "--boxes", "boxes.csv", "--out", "out")
    assert shown.code != 0
    assert "frames of clips have none" in shown.err


def test_nothing_but_broken_clips_is_one_line(tmp_path: Path, clip_model: str, run: Run) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no clip" * 99)
    shown = run("fit", "--model", clip_model, "--images", "x.mp4", "--out", "a.squeeze.safetensors")
    assert shown.code != 0
    assert "0 of 1 clip could be read" in shown.err
    assert not (tmp_path / "a.squeeze.safetensors").exists()


def test_a_clip_that_is_gone_when_its_turn_comes_is_left_out(tmp_path: Path) -> None:
    counting(tmp_path / "a.mp4", 12)
    found = in_pieces(find_images(tmp_path / "a.mp4", clips=True), 6, 2, refuse)
    shutil.move(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with pytest.raises(InputError, match="no such file"):
        found[1].read_all()
