"""Face tracks from detections: a detector that is made up, and the real ones where they are installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")

from clips import write_clip
from squeezecam.commands.speakers import explain_speakers, speaker_squeeze
from squeezecam.commands.video import VideoOptions
from squeezecam.errors import InputError, ModelError
from squeezecam.video import detectors
from squeezecam.video.detectors import Detections, face_detector, trimmed
from squeezecam.video.faces import SHORTEST, find_tracks, iou, scene_changes, smoothed, thumbnail
from squeezecam.video.reading import Frame
from squeezecam.video.tracks import FaceTrack, read_tracks, write_tracks
from test_video import no_bar

WIDE, HIGH = 96, 64
Scene = Callable[[int], list[tuple[float, float, float, float]]]


def scene(frame: int) -> list[tuple[float, float, float, float]]:
    """One face goes right, one stays and is hidden for a while; at frame 40 the scene changes to a third one."""
    if frame >= 40:
        return [(60, 10, 80, 30)]
    return [(10 + frame / 2, 10, 30 + frame / 2, 30)] + ([] if 15 <= frame < 22 else [(70, 35, 90, 60)])


def frames(count: int = 60, cut: int | None = 40) -> Iterator[Frame]:
    random = np.random.default_rng(0)
    scenes = [random.integers(0, 255, (HIGH, WIDE, 3), dtype=np.uint8).repeat(1, 0) for _ in range(2)]
    blocks = [np.kron(one[::16, ::16], np.ones((16, 16, 1), np.uint8)) for one in scenes]
    for i in range(count):
        yield Frame(i, i / 25, blocks[int(cut is not None and i >= cut)].copy())


class Detector:
    """Finds what the scene holds at the frame that it is asked for, and notes which frames those were."""

    def __init__(self, holds: Scene, score: float = 0.99) -> None:
        self.holds, self.score = holds, score
        self.asked: list[int] = []
        self.now = 0

    def watch(self, given: Iterator[Frame]) -> Iterator[Frame]:
        for frame in given:
            frame.pixels[0, 0] = frame.index  # so that a frame that is looked at later is still known
            yield frame

    def __call__(self, pixels: np.ndarray) -> Detections:
        frame = int(pixels[0, 0, 0])
        self.asked.append(frame)
        boxes = np.array(self.holds(frame), float).reshape(-1, 4)
        return Detections(boxes, np.full(len(boxes), self.score))


def test_faces_are_linked_bridged_and_end_at_a_cut() -> None:
    detector = Detector(scene)
    tracks, cuts = find_tracks(detector.watch(frames()), detector)
    assert cuts == 1
    spans = [(int(t.frames[0]), int(t.frames[-1])) for t in tracks]
    assert spans == [(0, 39), (0, 39), (40, 59)]  # the last frame before the cut, and of the clip, too
    moving, still, third = tracks
    assert still.box(18) == pytest.approx((70, 35, 90, 60))  # hidden for 7 frames
    assert moving.box(20) == pytest.approx((20, 10, 40, 30), abs=0.3)
    assert third.box(39) is None
    assert {t.name for t in tracks} == {"face1", "face2", "face3"}
    assert len(detector.asked) < 35  # every second frame, and both sides of the cut
    assert {39, 40, 59} <= set(detector.asked)


def test_no_face_an_uncertain_one_and_a_short_one_are_refused() -> None:
    for holds, score in (
        (lambda frame: [], 0.99),
        (scene, 0.5),
        (scene, 0.8),
        (lambda frame: [(1.0, 1, 20, 20)] if frame < SHORTEST - 2 else [], 0.99),
    ):
        detector = Detector(holds, score)
        with pytest.raises(InputError, match=r"no face was found .* --tracks"):
            find_tracks(detector.watch(frames(cut=None)), detector)


def test_two_faces_that_cross_keep_to_the_nearer_box() -> None:
    def crossing(frame: int) -> list[tuple[float, float, float, float]]:
        a, b = (10 + frame, 5, 30 + frame, 25), (60 - frame, 28, 80 - frame, 48)
        return [a, b] if frame % 4 else [b, a]  # the order says nothing

    detector = Detector(crossing)
    tracks, _ = find_tracks(detector.watch(frames(30, cut=None)), detector)
    assert len(tracks) == 2
    for track in tracks:
        assert np.ptp(track.boxes[:, 1]) < 1e-6  # each stays at its own height


def test_boxes_are_smoothed_without_lag() -> None:
    at = np.arange(0, 40, 2)
    straight = np.stack([at, at, at + 20, at + 20], 1).astype(float)
    np.testing.assert_allclose(smoothed(at, straight), straight, atol=1e-9)  # a steady motion stays as it is
    shaken = straight + np.random.default_rng(0).normal(size=straight.shape)
    assert np.abs(smoothed(at, shaken) - straight)[2:-2].mean() < 0.7 * np.abs(shaken - straight)[2:-2].mean()


def test_overlap_and_scenes() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1.0, 0, 3, 2], [5.0, 5, 6, 6]])
    np.testing.assert_allclose(iou(boxes, boxes)[0], [1, 1 / 3, 0])
    dark = np.random.default_rng(0).integers(0, 6, (HIGH, WIDE, 3), dtype=np.uint8)
    assert not scene_changes(thumbnail(dark), thumbnail(dark[::-1]))  # noise in the dark is no cut
    one, other = (next(iter(frames(1))).pixels, list(frames(41))[-1].pixels)
    assert scene_changes(thumbnail(one), thumbnail(other))
    assert not scene_changes(thumbnail(one), thumbnail(np.roll(one, 2, 1)))


def test_tracks_that_are_written_are_read_back(tmp_path: Path) -> None:
    track = FaceTrack("ann", np.array([3, 5]), np.array([[0.25, 1, 20, 20], [2, 1, 22, 20.5]]))
    (again,) = read_tracks(write_tracks(tmp_path / "t.csv", [track]))
    assert again.name == "ann"
    assert again.frames.tolist() == [3, 5]
    np.testing.assert_allclose(again.boxes, track.boxes)


def test_an_active_speaker_whose_face_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(
        tmp_path / "a.mp4", rate=25, seconds=0.8, size=(96, 64), paint=lambda time: next(frames(1)).pixels
    )
    wanted: list[str | None] = []

    def made_up(name: str | None) -> Detector:
        wanted.append(name)
        return Detector(lambda frame: [(8, 4, 48, 44)])

    monkeypatch.setattr(detectors, "face_detector", made_up)
    squeeze = speaker_squeeze(None, None, None, "cpu", strict=False, random=True, seed=0)
    options = VideoOptions(save_tracks=tmp_path / "t.csv", figures=tmp_path / "f", other_sound=clip)
    outcome = explain_speakers(squeeze, clip, tmp_path / "o.mp4", None, options, no_bar)
    assert wanted == [None]
    assert len(outcome.rows) == 20
    assert any("mtcnn found 1 face track (0 scene cuts)" in note for note in outcome.notes)
    (saved,) = read_tracks(tmp_path / "t.csv")
    assert saved.box(19) == pytest.approx((8, 4, 48, 44))
    figures = {"streams.png", "face1_frames.png", "face1_sound.png", "face1_moments.png"}
    assert figures == {path.name for path in (tmp_path / "f").iterdir()}
    assert figures <= {path.name for path in outcome.written}
    # the other sound is the clip's own: nothing changes, stream by stream
    changes = outcome.summary["other sound"]
    assert {row["stream"] for row in changes} == {"all", "face", "audio"}
    assert all(abs(row["change"]) < 1e-5 for row in changes)
    with pytest.raises(InputError, match="contradict"):
        explain_speakers(squeeze, clip, tmp_path / "o.mp4", tmp_path / "t.csv", VideoOptions(detector="mtcnn"), no_bar)


# --- other people's detectors -------------------------------------------------------------------------------


def test_a_detector_that_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("facenet_pytorch", "facenet_pytorch.models.utils.detect_face", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=r"mtcnn cannot be loaded .*pip install --no-deps facenet-pytorch.*--tracks"):
        face_detector()
    with pytest.raises(ModelError, match="opencv-python-headless"):
        face_detector(str(tmp_path / "yunet.onnx"))
    with pytest.raises(InputError, match="no face detector 'dlib'"):
        face_detector("dlib")


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")
def test_a_file_that_is_no_detector_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no face detector at"):
        face_detector(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be read as a YuNet model"):
        face_detector(str(tmp_path / "bad.onnx"))


def test_boxes_are_trimmed_by_shares() -> None:
    np.testing.assert_allclose(trimmed(np.array([[0.0, 0, 10, 30]]), 0.1, 1 / 3, 0.2, 0), [[1, 10, 8, 30]])
    assert trimmed(np.zeros((0, 4)), 0, 0, 0, 0).shape == (0, 4)


@pytest.mark.skipif(importlib.util.find_spec("facenet_pytorch") is None, reason="facenet-pytorch is not installed")
def test_mtcnn_finds_the_face_of_a_talking_head(material: Path) -> None:
    from squeezecam.video.reading import read_frames

    frame = next(read_frames(material / "asd" / "id2_vcd_swwp2s.mpg"))
    found = face_detector("mtcnn")(frame.pixels)
    assert len(found.boxes) == 1
    x0, y0, x1, y1 = found.boxes[0]
    assert x0 < 178 < x1  # the mouth
    assert y0 < 212 < y1
    assert found.scores[0] > 0.9
    empty = face_detector("mtcnn")(np.full((90, 120, 3), 127, np.uint8))
    assert empty.boxes.shape == (0, 4)
