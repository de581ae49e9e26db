from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("av", reason="PyAV is not installed")

from clips import BEEP, flash_and_beep, turned, write_clip
from squeezecam import attach
from squeezecam.commands.speakers import explain_speakers, speaker_squeeze
from squeezecam.commands.video import VideoOptions, VideoOutcome, explain_clip
from squeezecam.data.mfcc import mfcc
from squeezecam.errors import InputError, ModelError
from squeezecam.models.loaded import DefaultPreprocess, LoadedModel
from squeezecam.render.overlay import overlay
from squeezecam.render.scale import Scale
from squeezecam.video.figures import frame_strip, spectrogram
from squeezecam.video.paint import Painter
from squeezecam.video.reading import Frame, probe, read_frames, read_sound
from squeezecam.video.spool import Spool
from squeezecam.video.strip import NARROWEST, Series
from squeezecam.video.tracks import FaceTrack, at_rate, crop_face, lies_outside, read_tracks, runs
from squeezecam.video.writing import ClipWriter


class Bright(nn.Module):
    """Class 1 is the mean brightness: the map of class 1 is the picture itself, coarsely."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.features[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])[:, :, None, None])
            self.fc.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class MovingBright(nn.Module):
    """The same for clips of 4 frames ``(N, 3, 4, h, w)``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool3d((2, 8, 8)), nn.Conv3d(3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3, 4)))


@contextlib.contextmanager
def no_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def loaded_model() -> LoadedModel:
    return LoadedModel(Bright().eval(), DefaultPreprocess((32, 32)), ("dark", "bright"), "bright", (3, 32, 32), "test")


def run(clip: Path, out: Path, **options: Any) -> VideoOutcome:
    loaded = loaded_model()
    squeeze = attach(loaded.model, torch.rand(2, 3, 32, 32))
    return explain_clip(loaded, squeeze, clip, out, VideoOptions(**{"batch_size": 5, **options}), no_bar)


def streams_of(path: Path) -> dict[str, str]:
    import av

    with av.open(str(path)) as container:
        return {stream.type: stream.codec_context.name for stream in container.streams}


# --- the whole command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("copied.mp4", {}),
        ("encoded.mkv", {"audio": "pcm_s16le"}),
        ("opus.mkv", {"audio": "libopus", "sample_rate": 48000}),
        ("adts.ts", {}),
    ],
)
def test_flash_and_beep_stay_together_to_one_frame(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    clip = write_clip(tmp_path / name, **options)
    outcome = run(clip, tmp_path / "o.mp4", target=1)
    assert streams_of(tmp_path / "o.mp4") == {"video": "h264", "audio": "aac"}
    before, after = flash_and_beep(clip), flash_and_beep(tmp_path / "o.mp4")
    assert before[0] == pytest.approx(before[1], abs=0.01)  # the clip itself is what it should be
    assert after[0] == pytest.approx(after[1], abs=0.01)
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], abs=0.005)
    assert outcome.frames == 24


def test_a_picture_that_comes_later_than_the_sound_still_does(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "late.mp4", later=0.25)
    run(clip, tmp_path / "o.mp4", target=1)
    flash, beep = flash_and_beep(tmp_path / "o.mp4")
    assert flash - beep == pytest.approx(0.25, abs=0.01)


def test_uneven_times_are_kept_frame_by_frame(tmp_path: Path) -> None:
    times = [0.0, 0.05, 0.3, 0.35, 0.4, BEEP, 0.7, 1.1]
    clip = write_clip(tmp_path / "uneven.mp4", times=times)
    run(clip, tmp_path / "o.mp4")
    assert [f.seconds for f in read_frames(tmp_path / "o.mp4")] == pytest.approx(times, abs=1e-3)


def test_scores_follow_the_flash_and_the_strip_is_below(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    outcome = run(clip, tmp_path / "o.mp4", target=1, scores=tmp_path / "s.csv", side_by_side=True)
    lit = [row["probability"] > 0.6 for row in outcome.rows]
    assert [i for i, on in enumerate(lit) if on] == [12, 13, 14, 15]
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seconds"]) for row in rows] == pytest.approx([i / 20 for i in range(24)], abs=1e-6)
    assert {row["label"] for row in rows} == {"bright"}
    first = next(read_frames(tmp_path / "o.mp4"))
    assert first.pixels.shape[1] == NARROWEST
    assert first.pixels.shape[0] > 48 + 100
    assert first.pixels[-4:, :50].mean() > 200  # paper, not the dark canvas


def test_class_names_of_another_number_are_told(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", seconds=0.2, audio=None)
    assert not any("class name" in note for note in run(clip, tmp_path / "o.mp4").notes)
    loaded = replace(loaded_model(), labels=("alone",))
    squeeze = attach(loaded.model, torch.rand(2, 3, 32, 32))
    outcome = explain_clip(loaded, squeeze, clip, tmp_path / "o.mp4", VideoOptions(), no_bar)
    assert [note for note in outcome.notes if "class name" in note] == [
        "1 class name for the 2 classes of output 'output': the names may be those of another model"
    ]


def test_one_scale_over_the_clip_so_that_dark_frames_stay_cold(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", audio=None)
    run(clip, tmp_path / "o.mp4", target=1)
    assert streams_of(tmp_path / "o.mp4") == {"video": "h264"}
    frames = [f.pixels[10:38, NARROWEST // 2 - 20 : NARROWEST // 2 + 20] for f in read_frames(tmp_path / "o.mp4")]
    assert frames[13].mean() > frames[2].mean() + 100


def test_turned_clips_come_out_upright(tmp_path: Path) -> None:
    def paint(time: float) -> np.ndarray:
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:24, 32:] = 255  # top right, which a quarter turn clockwise brings to the bottom right
        return pixels

    clip = turned(write_clip(tmp_path / "a.mp4", audio=None, seconds=0.3, paint=paint))
    info, frame = probe(clip), next(read_frames(clip))
    assert info.size == (48, 64)
    quarters = {
        (y, x): float(frame.pixels[y * 32 : y * 32 + 32, x * 24 : x * 24 + 24].mean()) for y in (0, 1) for x in (0, 1)
    }
    assert max(quarters, key=lambda place: quarters[place]) == (1, 1)
    run(clip, tmp_path / "o.mp4")
    assert len(list(read_frames(tmp_path / "o.mp4"))) == 6


def test_models_of_clips_take_windows_and_every_frame_gets_its_map(tmp_path: Path) -> None:
    def preprocess(pictures: Any) -> Tensor:
        listed = pictures if isinstance(pictures, list) else [pictures] * 4
        return torch.stack([DefaultPreprocess((32, 32))(p) for p in listed], 1)

    model = MovingBright().eval()
    loaded = LoadedModel(model, preprocess, None, "moving", (3, 4, 32, 32), "test", clip=True)
    squeeze = attach(model, torch.rand(1, 3, 4, 32, 32))
    clip = write_clip(tmp_path / "a.mp4", audio=None, seconds=0.5)  # 10 frames: two windows and a half
    outcome = explain_clip(loaded, squeeze, clip, tmp_path / "o.mp4", VideoOptions(), no_bar)
    assert outcome.frames == 10
    assert [row["frame"] for row in outcome.rows] == list(range(10))


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_no_clip_no_video_no_mp4_name(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no clip at all")
    (tmp_path / "empty.mp4").touch()
    for name, words in (
        ("none.mp4", "no such file"),
        ("text.mp4", "cannot be read as a clip"),
        ("empty.mp4", "cannot"),
    ):
        with pytest.raises(InputError, match=words):
            run(tmp_path / name, tmp_path / "o.mp4")
    clip = write_clip(tmp_path / "a.mp4", audio=None, seconds=0.2)
    with pytest.raises(InputError, match=r"ends in \.mp4"):
        run(clip, tmp_path / "o.gif")
    with pytest.raises(InputError, match="is the clip itself"):
        run(clip, clip)
    with pytest.raises(InputError, match="has no sound"):
        read_sound(clip)


def test_every_output_is_tried_before_the_work(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", audio=None, seconds=0.2)
    (tmp_path / "file").touch()
    for options, words in (
        ({"scores": tmp_path}, "is a folder: give the name of a CSV file"),
        ({"scores": tmp_path / "file" / "a.csv"}, "output folder"),
        ({"figures": tmp_path / "file"}, "a file has that name"),
    ):
        with pytest.raises(InputError, match=words):
            run(clip, tmp_path / "o.mp4", **options)
        assert not (tmp_path / "o.mp4").exists()


def test_a_clip_that_is_shorter_than_it_says_is_told(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", seconds=3.0, audio=None, paint=lambda time: noise(time))
    broken = tmp_path / "b.mkv"
    broken.write_bytes(clip.read_bytes()[: len(clip.read_bytes()) * 2 // 3])
    notes: list[str] = []
    found = list(read_frames(broken, notes))
    assert [f"lasts 3.00 s, and breaks off at {found[-1].seconds + 0.05:.2f} s" in note for note in notes] == [True]
    for name, options in (
        ("whole.mkv", {"audio": None}), ("sound.mp4", {}), ("late.mkv", {"later": 0.5, "audio": None}),
        ("uneven.mp4", {"times": [0, 0.1, 0.5, 1.2], "audio": None}),
    ):  # fmt: skip
        notes = []
        list(read_frames(write_clip(tmp_path / name, **options), notes))  # type: ignore[arg-type]
        assert notes == []


def test_a_clip_that_breaks_off_is_explained_as_far_as_it_goes(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.ts", seconds=3.0, paint=lambda time: noise(time))
    data = clip.read_bytes()
    broken = tmp_path / "b.ts"
    hole = bytes(len(data) // 10)
    broken.write_bytes(data[: len(data) // 2] + hole + data[len(data) // 2 + len(hole) : len(data) * 9 // 10])
    outcome = run(broken, tmp_path / "o.mp4")
    assert 10 < outcome.frames < 60
    assert len(list(read_frames(tmp_path / "o.mp4"))) == outcome.frames


def noise(time: float) -> np.ndarray:
    return np.random.default_rng(round(time * 1000)).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_after_an_error_there_is_no_half_file(tmp_path: Path) -> None:
    out = tmp_path / "o.mp4"
    out.write_bytes(b"old")

    def half() -> None:
        with ClipWriter(out, (64, 48), Fraction(20)) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
            raise RuntimeError("mid-way")

    with pytest.raises(RuntimeError, match="mid-way"):
        half()
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["o.mp4"]


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", size=(62, 47), codec="ffv1", audio=None, seconds=0.2)
    assert probe(clip).size == (62, 47)
    run(clip, tmp_path / "o.mp4")
    height, width = next(read_frames(tmp_path / "o.mp4")).pixels.shape[:2]
    assert height % 2 == width % 2 == 0


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [None, (10.0, 5.0, 50.0, 45.0), (-8.0, 0.0, 72.0, 48.0)])
def test_the_painter_draws_what_overlay_draws(box: tuple[float, float, float, float] | None) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels, heat = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), rng.random((7, 7)).astype(np.float32)
    scale = Scale(0.0, 0.8, "fixed")
    ours = Painter((64, 48), (7, 7), scale, box)(pixels, heat).astype(int)
    theirs = np.asarray(overlay(Image.fromarray(pixels), heat, box=box, scale=scale)).astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_the_spool_gives_back_what_it_was_given_and_leaves_nothing(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(9, 3, 4)).astype(np.float32)
    with Spool(tmp_path) as spool:
        spool.append(maps[:5])
        spool.append(maps[5:])
        assert len(spool) == 9
        assert all(np.array_equal(spool[i], maps[i]) for i in (8, 0, 4))
        assert spool.scale().lo == 0
        assert spool.scale().hi == maps.max()
        assert maps.max() > spool.scale("quantile").hi > np.quantile(maps, 0.9)
        with pytest.raises(InputError, match="differ in size"):
            spool.append(np.zeros((1, 4, 4)))
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to write to")
def test_a_full_disk_is_told_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Path("/dev/full").open("r+b"))  # noqa: SIM115
    with Spool("maps") as spool, pytest.raises(InputError, match="cannot keep the maps of the clip in maps: No space"):
        spool.append(np.ones((1, 2, 2)))


def test_frames_at_a_steady_rate_are_the_nearest_in_time() -> None:
    times = [i / 30 for i in range(31)] + [1.5, 1.52]
    frames = [Frame(i, t, np.zeros((2, 2, 3), np.uint8)) for i, t in enumerate(times)]
    slots = list(at_rate(frames, 25))
    assert [slot for slot, _ in slots] == list(range(len(slots)))
    for slot, frame in slots:
        assert abs(frame.seconds - slot / 25) == pytest.approx(min(abs(t - slot / 25) for t in times), abs=1e-9)
    assert len(slots) == 39  # up to 1.52 s
    assert runs([2, 3, 4, 7, 9, 10]) == [(2, 5), (7, 8), (9, 11)]


def test_tracks_are_read_bridged_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("frame,track,x0,y0,x1,y1\n4,a,0,0,10,10\n0,a,20,0,30,10\n0,b,1,1,5,5\n40,a,0,0,9,9\n")
    a, b = read_tracks(file)
    assert (a.name, b.name) == ("a", "b")
    assert a.box(0) == (20, 0, 30, 10)
    assert a.box(1) == (15, 0, 25, 10)
    assert a.box(20) is None
    assert a.box(41) is None
    assert b.box(1) is None
    for text, words in (
        ("frame,x0\n1,2\n", "lacks the columns track, y0, x1, y1"),
        ("frame,track,x0,y0,x1,y1\n", "no boxes"),
        ("frame,track,x0,y0,x1,y1\n0,a,5,0,5,9\n", "line 2"),
        ("frame,track,x0,y0,x1,y1\n0,a,5,0,6,9\n0,a,5,0,7,9\n", "twice"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            read_tracks(file)
    with pytest.raises(InputError, match="no such file"):
        read_tracks(tmp_path / "none.csv")


def test_crops_are_gray_and_reach_beyond_the_picture() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = (255, 0, 0)
    crop = crop_face(pixels, (20, 0, 40, 40))
    assert crop.shape == (112, 112)
    assert crop[:, :50].max() == 0
    assert (crop[:, 62:] == 76).all()  # 0.299 of red
    assert (crop_face(pixels, (-20, 0, 20, 40))[:, :50] == 110).all()


# --- the active speaker -------------------------------------------------------------------------------------


def test_sound_of_the_clip_gives_the_coefficients_of_its_samples(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", audio="pcm_s16le", later=0.2)
    samples, rate, start = read_sound(clip, 16000)
    assert (rate, start) == (16000, 0.0)
    t = np.arange(round(1.2 * 16000)) / 16000
    tone = np.where((t >= BEEP) & (t < BEEP + 0.2), 0.8 * np.sin(2 * np.pi * 1000 * t), 0)
    exact = mfcc((tone * 32767).astype(np.int16))
    assert (mfcc(torch.from_numpy(samples)) - exact).abs().max() < 0.05


def test_an_active_speaker_clip_from_end_to_end(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", rate=30, seconds=1.2, size=(96, 64), paint=lambda time: noise_at(time))
    tracks = tmp_path / "t.csv"
    lines = [f"{i},ann,8,4,48,44" for i in range(36)] + [f"{i},bob,50,4,90,44" for i in range(10, 25)]
    tracks.write_text("frame,track,x0,y0,x1,y1\n" + "\n".join(lines) + "\n")
    squeeze = speaker_squeeze(None, None, None, "cpu", strict=False, random=True, seed=0)
    outcome = explain_speakers(squeeze, clip, tmp_path / "o.mp4", tracks, VideoOptions(), no_bar)
    names = [row["track"] for row in outcome.rows]
    assert names.count("ann") == 36
    assert names.count("bob") == 15
    assert all(0 <= row["speaking"] <= 1 for row in outcome.rows)
    assert all(row["mass_face"] + row["mass_audio"] == pytest.approx(1) for row in outcome.rows)
    few = [note for note in outcome.notes if "not fitted" in note]
    assert few
    assert "at least 8 windows of 1 s with a face, and there are 2; give a longer clip, or --adapter" in few[0]
    assert len(list(read_frames(tmp_path / "o.mp4"))) == 36
    measured = {row["measure"] for row in outcome.summary["importance"]}
    assert {"mean gate", "zero", "top only"} <= measured


def test_boxes_outside_the_picture_are_left_out_and_told(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", rate=25, seconds=1.2, size=(96, 64), paint=lambda time: noise_at(time))
    tracks, head = tmp_path / "t.csv", "frame,track,x0,y0,x1,y1\n"
    inside = [f"{i},ann,{8 if i < 20 else 108},4,{48 if i < 20 else 148},44" for i in range(30)]
    tracks.write_text(head + "\n".join([*inside, *(f"{i},bob,300,300,350,350" for i in range(30))]) + "\n")
    squeeze = speaker_squeeze(None, None, None, "cpu", strict=False, random=True, seed=0)
    outcome = explain_speakers(squeeze, clip, tmp_path / "o.mp4", tracks, VideoOptions(), no_bar)
    assert [row["frame"] for row in outcome.rows if row["track"] == "ann"] == list(range(20))
    assert {row["track"] for row in outcome.rows} == {"ann"}
    said = [note for note in outcome.notes if "lies outside the picture of 96 x 64 pixels" in note]
    assert [note.split(",")[0] for note in said] == ["ann: left out in 10 frames", "bob: left out in 30 frames"]
    assert not any(line.startswith("bob") for line in outcome.summary["lines"])
    tracks.write_text(head + "".join(f"{i},bob,300,300,350,350\n" for i in range(30)))
    with pytest.raises(InputError, match=r"no box of .* lies within the 30 frames of .*, which have 96 x 64 pixels"):
        explain_speakers(squeeze, clip, tmp_path / "o.mp4", tracks, VideoOptions(), no_bar)


@pytest.mark.parametrize(
    ("box", "outside"),
    [
        ((96, 0, 120, 40), True), ((95, 0, 120, 40), False), ((-40, 0, 0, 40), True), ((-40, 0, 1, 40), False),
        ((0, 64, 40, 80), True), ((0, -40, 40, 0.4), True), ((-9, -9, 200, 200), False),
    ],
)  # fmt: skip
def test_a_box_is_outside_where_no_pixel_is_in_it(box: tuple[float, ...], outside: bool) -> None:
    assert lies_outside(box, 96, 64) == outside
    pixels = np.zeros((64, 96, 3), np.uint8)
    assert bool((crop_face(pixels, box) == 110).all()) == outside  # the gray of what is not in the picture


def noise_at(time: float) -> np.ndarray:
    return np.random.default_rng(round(time * 1000)).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_an_active_speaker_needs_faces_sound_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="--weights FILE"):
        speaker_squeeze(None, None, None, "cpu", strict=False, random=False, seed=0)
    squeeze = speaker_squeeze(None, None, None, "cpu", strict=False, random=True, seed=0)
    silent = write_clip(tmp_path / "a.mp4", audio=None, seconds=0.2)
    monkeypatch.setitem(sys.modules, "facenet_pytorch.models.utils.detect_face", None)
    heard = write_clip(tmp_path / "b.mp4", seconds=0.2)
    with pytest.raises(ModelError, match=r"pip install .*--tracks"):
        explain_speakers(squeeze, heard, tmp_path / "o.mp4", None, VideoOptions(), no_bar)
    tracks = tmp_path / "t.csv"
    tracks.write_text("frame,track,x0,y0,x1,y1\n900,a,0,0,9,9\n")
    with pytest.raises(InputError, match="has no sound"):
        explain_speakers(squeeze, silent, tmp_path / "o.mp4", tracks, VideoOptions(), no_bar)
    with pytest.raises(InputError, match="within the 4 frames"):
        explain_speakers(squeeze, heard, tmp_path / "o.mp4", tracks, VideoOptions(), no_bar)


def test_boxes_of_a_track_are_found_by_frame() -> None:
    track = FaceTrack("a", np.array([3, 5]), np.array([[0.0, 0, 2, 2], [2.0, 0, 4, 2]]))
    assert [track.box(i) for i in (2, 4, 6)] == [None, (1.0, 0.0, 3.0, 2.0), None]


# --- pictures for documents ---------------------------------------------------------------------------------


def test_a_spectrogram_has_its_lowest_frequency_at_the_bottom_and_its_heat_where_the_map_is() -> None:
    sound = np.random.default_rng(0).normal(size=(13, 100))

    def middle_of_heat(band: int) -> float:
        heat = np.zeros((4, 10))
        heat[band, 4] = 1.0
        picture = np.asarray(spectrogram(sound, heat)).astype(int)
        red = picture[..., 0] - picture[..., 2]  # the middle of the colour map is red
        rows = np.flatnonzero(red[:, : red.shape[1] - 150].max(1) > 60)  # without the colour bar
        return float(rows.mean()) / len(picture)

    assert middle_of_heat(0) > middle_of_heat(1) > middle_of_heat(3)


@pytest.mark.parametrize("scale", ["shared", "quantile"])
def test_the_figures_are_on_the_scale_of_the_clip(tmp_path: Path, scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The brightest frame is between two that are shown: a scale of the frames shown, or of each, would be another."""
    from squeezecam.commands import video
    from squeezecam.video import figures

    monkeypatch.setattr(video, "FIGURE_FRAMES", 3)
    given: dict[str, Any] = {}
    real_draw, real_tile = video.draw_clip, figures.tile
    tiles: list[np.ndarray] = []
    monkeypatch.setattr(video, "draw_clip", lambda *a, **o: (given.update(o), real_draw(*a, **o))[1])

    def tile(picture: Image.Image, heat: Any, **options: Any) -> Image.Image:
        drawn = real_tile(picture, heat, **options)
        assert options["scale"] is given["scale"]
        tiles.append(np.asarray(drawn.crop((20, 20, 130, 130))).astype(float))
        return drawn

    monkeypatch.setattr(figures, "tile", tile)
    levels = [40, 250, 60, 60, 120]

    def paint(time: float) -> np.ndarray:
        pixels = np.full((64, 64, 3), levels[round(time * 20)], np.uint8)
        pixels[:32] = pixels[:32] // 2
        return pixels

    clip = write_clip(tmp_path / "a.mp4", seconds=0.25, size=(64, 64), audio=None, paint=paint)
    run(clip, tmp_path / "o.mp4", target=1, scale=scale, figures=tmp_path / "f", sound=False)
    assert given["scale"].how == f"{scale} over the clip"
    assert len(tiles) == 3
    assert (tmp_path / "f" / "frames.png").is_file()
    # on a scale of its own, or of those shown, the last one would reach the top of the colours, which is nearly white
    assert tiles[2].max() < 200


def test_figures_of_a_sound_and_of_streams_say_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from squeezecam.render import figure
    from squeezecam.streams import StreamImportance
    from squeezecam.video import figures

    said: list[str] = []
    real_caption, real_block = figure._captioned, figures.text_block
    monkeypatch.setattr(figure, "_captioned", lambda one, words: (said.append(words), real_caption(one, words))[1])
    monkeypatch.setattr(
        figures, "text_block", lambda words, *a, **o: (said.append(words), real_block(words, *a, **o))[1]
    )
    spectrogram(np.random.default_rng(0).normal(size=(13, 300)), np.ones((4, 10)))
    assert "sound · 13 rows, 300 time steps" in said
    assert not any("pixels" in words for words in said)
    one = StreamImportance(["face", "audio"], [1, 1], {"mean gate": torch.tensor([[0.5, 0.4]])}, {}, torch.zeros(1))
    figures.importance_bars(one, noun="window")
    assert "importance of the streams, mean over 1 window" in said


def test_curves_begin_right_below_their_title() -> None:
    from squeezecam.video.figures import curves
    from squeezecam.video.strip import CURVE, MARGIN

    bare = np.asarray(curves(np.arange(5), [("", [Series("a", np.linspace(0, 1, 5))])]))
    inside = bare[:, bare.shape[1] // 2].min(-1) < 250  # the field, its frame and the curve
    assert np.flatnonzero(inside)[0] <= 4 + MARGIN + 1
    two = curves(np.arange(5), [("first", [Series("a", np.ones(5))]), ("second", [Series("b", np.ones(5))])], title="t")
    assert two.height < 2 * (CURVE + 110) + 40


def test_frames_in_a_row_share_one_scale() -> None:
    frames = [np.full((20, 20), 100, np.uint8)] * 5
    maps = [np.full((4, 4), level) + np.eye(4) * 0.01 for level in (0.0, 0.2, 0.4, 0.6, 1.0)]
    strip = np.asarray(frame_strip(frames, maps, count=3, size=60))
    assert strip.shape[1] > 3 * 60
    with pytest.raises(InputError, match="5 pictures and 4 maps"):
        frame_strip(frames, maps[:4])
