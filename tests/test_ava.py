from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from squeezecam.data.ava import COLUMNS, LABELS, SPEAKING, Row, entities, frame_slots, read_rows
from squeezecam.data.ava_folder import AvaFolder
from squeezecam.data.ava_map import average_precision, evaluate_ava, write_predictions
from squeezecam.data.mfcc import align, mfcc
from squeezecam.errors import InputError, SqueezeWarning

VIDEO, FRAMES, START = "AbCdEf_-123", 10, 902.04
ENTITIES = ("AbCdEf_-123_0900_0960:1", "AbCdEf_-123_0900_0960:2")
TIMES = [round(START + i * 0.04, 2) for i in range(FRAMES)]


def label_of(frame: int) -> str:
    return LABELS[1] if 3 <= frame < 6 else LABELS[2] if frame == 6 else LABELS[0]


def shade(frame: int, body: bool = False) -> int:
    return 20 + 10 * frame + (100 if body else 0)


def sound() -> np.ndarray:
    # as the field cuts it: from the time of the first frame to the time of the last
    return (np.random.default_rng(0).standard_normal(int((FRAMES - 1) * 0.04 * 16000)) * 3000).astype(np.int16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two entities of ten frames; the second one has bodies too, and every folder name is the field's."""
    lines = [",".join((*COLUMNS, "label_id", "instance_id"))]
    # out of order in time, as grouped files are
    for time, frame in reversed(list(zip(TIMES, range(FRAMES), strict=True))):
        for e, entity in enumerate(ENTITIES):
            label = label_of(frame)
            lines.append(f"{VIDEO},{time},0.1,0.2,{0.3 + e / 10},0.4,{label},{entity},{LABELS.index(label)},{entity}:0")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "val_orig.csv").write_text("\n".join(lines) + "\n")
    for tree, body, names in (("clips_videos", False, ENTITIES), ("clips_videos_body", True, ENTITIES[1:])):
        for entity in names:
            folder = tmp_path / tree / "val" / VIDEO / entity
            folder.mkdir(parents=True)
            for frame, time in enumerate(TIMES):
                picture = Image.new("RGB", (40, 50), (shade(frame, body),) * 3)
                picture.save(folder / f"{time:.2f}.jpg", quality=95)
    folder = tmp_path / "clips_audios" / "val" / VIDEO
    folder.mkdir(parents=True)
    for entity in ENTITIES:
        with wave.open(str(folder / f"{entity}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(sound().tobytes())
    return tmp_path


def shades(pictures: torch.Tensor | None) -> list[int]:
    assert pictures is not None
    return [round(float(p.float().mean())) for p in pictures]


def test_rows_become_entities_in_order_of_time(root: Path) -> None:
    first, second = entities(read_rows(root / "csv" / "val_orig.csv"))
    assert (first.video_id, first.entity_id, second.entity_id) == (VIDEO, *ENTITIES)
    assert first.timestamps.tolist() == TIMES
    assert first.labels == tuple(label_of(i) for i in range(FRAMES))
    # speech that is not heard does not count
    assert first.speaking.tolist() == [3 <= i < 6 for i in range(FRAMES)]
    assert second.boxes[0].tolist() == [0.1, 0.2, 0.4, 0.4]


def test_official_files_have_no_header_and_come_one_per_video(tmp_path: Path) -> None:
    for video in "AB":
        (tmp_path / f"{video}-activespeaker.csv").write_text(
            f"{video},900.00,0.1,0.2,0.3,0.4,NOT_SPEAKING,{video}:0\n{video},900.04,0.1,0.2,0.3,0.4,{SPEAKING},{video}:0\n"
        )
    rows = read_rows(tmp_path)
    assert [(r.video_id, r.timestamp, r.label, r.label_id, r.score) for r in rows[1:3]] == [
        ("A", 900.04, SPEAKING, None, None),
        ("B", 900.0, "NOT_SPEAKING", None, None),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,1.0,0,0,1,1,TALKING,e", "line 2: the label is 'TALKING'"),
        ("v,now,0,0,1,1,NOT_SPEAKING,e", "line 2: could not convert"),
        ("v,nan,0,0,1,1,NOT_SPEAKING,e", r"line 2: .* not a finite number"),
        ("v,1.0,0,0", "line 2: "),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.csv").write_text("v,0.5,0,0,1,1,NOT_SPEAKING,e\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / "a.csv")


def test_files_without_annotations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.csv files"):
        read_rows(tmp_path)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InputError, match="holds no annotation"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("video_id,frame_timestamp,label\nv,1,NOT_SPEAKING\n")
    with pytest.raises(InputError, match="lacks the columns entity_box_x1"):
        read_rows(tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "none.csv")


def test_one_time_twice_is_refused() -> None:
    row = Row("v", 1.0, (0, 0, 1, 1), SPEAKING, "e")
    with pytest.raises(InputError, match="annotated twice"):
        entities([row, row])


@pytest.mark.parametrize("rate", [24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 60.0, 15.0])
def test_rounded_times_give_the_frame_rate_without_drift(rate: float) -> None:
    times = np.round(900 + np.arange(200) / rate, 2)
    slots, fps = frame_slots(times)
    assert slots.tolist() == list(range(200))
    assert fps == pytest.approx(rate, rel=2e-3)


def test_gaps_in_time_are_counted() -> None:
    times = np.round(900 + np.array([0, 1, 2, 3, 10, 11, 12]) / 30, 2)
    assert frame_slots(times)[0].tolist() == [0, 1, 2, 3, 10, 11, 12]
    assert frame_slots(times[:1]) == (pytest.approx([0]), 25.0)
    assert frame_slots(times, 60.0)[0].tolist()[:2] == [0, 2]


def test_tracks_hold_crops_labels_and_sound_in_step(root: Path) -> None:
    plain, with_body = AvaFolder(root, "val")
    assert plain.faces is not None
    assert plain.faces.shape == (FRAMES, 112, 112)
    assert plain.faces.dtype == torch.uint8
    assert shades(plain.faces) == pytest.approx([shade(i) for i in range(FRAMES)], abs=2)
    assert shades(with_body.bodies) == pytest.approx([shade(i, True) for i in range(FRAMES)], abs=2)
    assert plain.bodies is None
    assert not plain.body_found.any()
    assert plain.face_found.all()
    assert plain.speaking.tolist() == [3 <= i < 6 for i in range(FRAMES)]
    assert plain.fps == 25.0
    assert plain.mfcc is not None
    torch.testing.assert_close(plain.mfcc, align(mfcc(sound()), FRAMES), rtol=0, atol=1e-3)


def test_the_rate_in_the_loader_list_decides_the_window(root: Path) -> None:
    list_of_rates = root / "csv" / "val_loader.csv"
    list_of_rates.write_text(f"{ENTITIES[0]}\t{FRAMES}\t26.0\t[{', '.join('0' * FRAMES)}]\t0\n")
    first, second = AvaFolder(root, "val")
    assert (first.fps, second.fps) == (26.0, 25.0)
    assert first.mfcc is not None
    torch.testing.assert_close(first.mfcc, align(mfcc(sound(), fps=26.0), FRAMES), rtol=0, atol=1e-3)
    list_of_rates.write_text("no tabs here\n")
    with pytest.raises(InputError, match="line 1"):
        AvaFolder(root, "val")


@pytest.mark.parametrize(
    ("fill", "wanted"),
    [("hold", [2, 2, 2, 3, 3, 5, 6, 7, 8, 8]), ("zeros", [None, None, 2, 3, None, 5, 6, 7, 8, None])],
)
def test_missing_and_damaged_crops_are_filled_and_told(root: Path, fill: str, wanted: list[int | None]) -> None:
    folder = root / "clips_videos" / "val" / VIDEO / ENTITIES[0]
    for frame in (0, 1, 4):
        (folder / f"{TIMES[frame]:.2f}.jpg").unlink()
    (folder / f"{TIMES[9]:.2f}.jpg").write_bytes(b"")  # what cutters leave of a box outside the frame
    (folder / "thumbnail.jpg").write_bytes(b"not a frame")
    with pytest.warns(SqueezeWarning, match="4 of 10 face crops"):
        track = AvaFolder(root, "val", fill=fill)[0]
    assert track.face_found.tolist() == [i not in (0, 1, 4, 9) for i in range(FRAMES)]
    assert shades(track.faces) == pytest.approx([0 if i is None else shade(i) for i in wanted], abs=2)
    assert track.mfcc is not None
    assert track.mfcc.shape == (4 * FRAMES, 13)


def test_crops_belong_to_the_frame_their_name_says_not_to_their_place(root: Path) -> None:
    # a name may be cut instead of rounded; the next frame's picture must not slip in where one is missing
    folder = root / "clips_videos" / "val" / VIDEO / ENTITIES[0]
    (folder / f"{TIMES[2]:.2f}.jpg").rename(folder / f"{TIMES[2] - 0.01:.2f}.jpg")
    assert shades(AvaFolder(root, "val")[0].faces) == pytest.approx([shade(i) for i in range(FRAMES)], abs=2)


def test_frames_after_a_gap_keep_their_sound(root: Path) -> None:
    csv = root / "csv" / "val_orig.csv"
    gone = {f",{time}," for time in TIMES[4:7]}
    csv.write_text("\n".join(line for line in csv.read_text().splitlines() if not any(t in line for t in gone)) + "\n")
    track = AvaFolder(root, "val")[0]
    whole = align(mfcc(sound()), FRAMES).reshape(FRAMES, 4, 13)
    kept = [0, 1, 2, 3, 7, 8, 9]
    assert track.mfcc is not None
    torch.testing.assert_close(track.mfcc, whole[kept].flatten(0, 1), rtol=0, atol=1e-3)
    assert shades(track.faces) == pytest.approx([shade(i) for i in kept], abs=2)


def test_streams_that_must_exist_and_streams_that_may(root: Path) -> None:
    (root / "clips_audios" / "val" / VIDEO / f"{ENTITIES[0]}.wav").unlink()
    with pytest.raises(InputError, match="has no sound at"):
        AvaFolder(root, "val")[0]
    track = AvaFolder(root, "val", require=("face",))[0]
    assert track.mfcc is None
    assert track.audio is None
    with pytest.raises(InputError, match="has no body crops"):
        AvaFolder(root, "val", require=("body",))[0]
    assert AvaFolder(root, "val", require=("body",))[1].bodies is not None
    with pytest.raises(InputError, match=r"\['mouth'\]"):
        AvaFolder(root, "val", require=("mouth",))


def test_sound_that_ends_early_is_told(root: Path) -> None:
    with wave.open(str(root / "clips_audios" / "val" / VIDEO / f"{ENTITIES[0]}.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(sound()[:2000].tobytes())
    with pytest.warns(SqueezeWarning, match="sound for 2 of 10 frames"):
        AvaFolder(root, "val")[0]


def test_colons_in_ids_may_be_underscores_on_disk(root: Path) -> None:
    (root / "clips_videos" / "val" / VIDEO / ENTITIES[0]).rename(
        root / "clips_videos" / "val" / VIDEO / ENTITIES[0].replace(":", "_")
    )
    assert AvaFolder(root, "val")[0].face_found.all()


def test_ids_cannot_lead_out_of_the_folder(root: Path) -> None:
    csv = root / "csv" / "val_orig.csv"
    csv.write_text(csv.read_text().replace(ENTITIES[0], "../secret"))
    with pytest.raises(InputError, match="cannot name a file"):
        AvaFolder(root, "val")[0]


# --- the official score ------------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    # ranked: + - + - -; precision at the hits 1/1 and 2/3, each for half of the recall
    assert average_precision([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 0, 0]) == pytest.approx((1 + 2 / 3) / 2)
    # ranked: - + + +: precision 1/2, 2/3, 3/4 rises with recall, so all count as 3/4
    assert average_precision([4, 3, 2, 1], [0, 1, 1, 1]) == pytest.approx(3 / 4)
    assert average_precision([1, 2, 3], [0, 0, 1]) == 1.0
    assert average_precision([3, 2, 1], [0, 0, 1]) == pytest.approx(1 / 3)


def test_average_precision_is_the_area_under_the_envelope() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.random(500), rng.random(500) < 0.3
    order = np.argsort(-scores)
    hits = np.cumsum(positive[order])
    recall = np.concatenate([[0], hits / hits[-1], [1]])
    precision = np.concatenate([[0], hits / np.arange(1, 501), [0]])
    area = sum((recall[i] - recall[i - 1]) * precision[i:].max() for i in range(1, len(recall)))
    assert average_precision(scores, positive) == pytest.approx(area, abs=1e-12)


def test_what_has_no_average_precision_is_refused() -> None:
    with pytest.raises(InputError, match="no row is positive"):
        average_precision([1, 2], [0, 0])
    with pytest.raises(InputError, match="NaN"):
        average_precision([1, float("nan")], [0, 1])
    with pytest.raises(InputError, match="same length"):
        average_precision([1, 2], [1])


def test_predictions_written_are_predictions_scored(root: Path, tmp_path: Path) -> None:
    truth = root / "csv" / "val_orig.csv"
    found = entities(read_rows(truth))
    perfect = [np.where(e.speaking, 0.9, 0.1) + np.arange(len(e)) * 1e-3 for e in found]
    write_predictions(tmp_path / "val_res.csv", found, perfect)
    score = evaluate_ava(truth, tmp_path / "val_res.csv")
    assert (score.average_precision, score.frames, score.positives) == (1.0, 2 * FRAMES, 6)
    assert score.tied == 2 * FRAMES  # both entities were given the same scores
    assert not list(tmp_path.glob("*.part"))

    write_predictions(tmp_path / "val_res.csv", found, [perfect[0] + 10, -perfect[1]])
    # the second entity upside down: the first one's 3 positives lead, then come 14 negatives, then 3 positives
    wanted = (3 * 1 + 3 * (6 / 20)) / 6
    assert evaluate_ava(truth, tmp_path / "val_res.csv").average_precision == pytest.approx(wanted)


def test_predictions_must_match_the_annotations_exactly() -> None:
    box = (0.1, 0.2, 0.3, 0.4)
    truth = [Row("v", 1.0, box, SPEAKING, "e"), Row("v", 1.04, box, "NOT_SPEAKING", "e")]
    good = [Row("v", 1.04, box, SPEAKING, "e", score=0.2), Row("v", 1.0, box, SPEAKING, "e", score=0.7)]
    assert evaluate_ava(truth, good).average_precision == 1.0
    with pytest.raises(InputError, match="lack 1 annotated frames"):
        evaluate_ava(truth, good[:1])
    with pytest.raises(InputError, match="have 1 that are not annotated"):
        evaluate_ava(truth, [*good, Row("v", 1.08, box, SPEAKING, "e", score=0.2)])
    with pytest.raises(InputError, match="1 frames twice"):
        evaluate_ava(truth, [*good, good[0]])
    with pytest.raises(InputError, match="has the box"):
        evaluate_ava(truth, [good[0], Row("v", 1.0, (0.1, 0.2, 0.3, 0.41), SPEAKING, "e", score=0.7)])
    with pytest.raises(InputError, match="has no score"):
        evaluate_ava(truth, [good[0], Row("v", 1.0, box, SPEAKING, "e")])
    with pytest.raises(InputError, match="has the label NOT_SPEAKING"):
        evaluate_ava(truth, [good[0], Row("v", 1.0, box, "NOT_SPEAKING", "e", score=0.7)])


def test_scores_must_fit_the_frames(root: Path, tmp_path: Path) -> None:
    found = entities(read_rows(root / "csv" / "val_orig.csv"))
    with pytest.raises(InputError, match=r"scores \(3,\) for the 10 frames"):
        write_predictions(tmp_path / "p.csv", found[:1], [[1, 2, 3]])
    with pytest.raises(InputError, match="1 lists of scores for 2 entities"):
        write_predictions(tmp_path / "p.csv", found, [[1] * FRAMES])
    assert not (tmp_path / "p.csv").exists()
