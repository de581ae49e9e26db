"""The training recipe for active speakers, on a few drawn tracks in the official layout."""

from __future__ import annotations

import csv
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from launching import together
from squeezecam.adapter import load
from squeezecam.data.ava import COLUMNS, SPEAKING
from squeezecam.data.ava_folder import AvaFolder
from squeezecam.data.ava_map import evaluate_ava
from squeezecam.errors import InputError
from squeezecam.models.light_asd import LightASD, load_light_asd
from squeezecam.module import Squeeze
from squeezecam.recipes.active_speaker import (
    SITES,
    SpeakerLoss,
    SpeakerSettings,
    WithVisualHeads,
    _example,
    main,
    train_speaker,
)
from squeezecam.recipes.speaker_clips import Groups, varied
from squeezecam.streams import importance

SIDE = 16


def draw_set(root: Path, *, bodies: bool = False, tracks: int = 4, frames: int = 9) -> Path:
    """Tracks in the official layout: the lower half of a face flickers while it speaks, and then a tone is heard."""
    random = np.random.default_rng(0)
    (root / "csv").mkdir(parents=True)
    for split in ("train", "val"):
        lines = [",".join((*COLUMNS, "label_id", "instance_id"))]
        for number in range(tracks):
            video, entity = f"video{number}", f"video{number}_0000_0060:{number}"
            count = frames + number % 2  # of several lengths
            half = count // 2
            speaks = [(i < half) == bool(number % 2) for i in range(count)]
            times = [round(900 + i * 0.04, 2) for i in range(count)]
            for tree in ("clips_videos", *(["clips_videos_body"] if bodies else [])):
                folder = root / tree / split / video / entity
                folder.mkdir(parents=True)
                for time, on in zip(times, speaks, strict=True):
                    pixels = random.integers(90, 110, (SIDE, SIDE))
                    if on:
                        pixels[SIDE // 2 :] += random.integers(60, 140)
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{time:.2f}.jpg", quality=95)
            loud = np.repeat(speaks, 640)
            signal = np.sin(np.arange(len(loud)) * 0.3) * np.where(loud, 6000, 60) + random.normal(size=len(loud)) * 30
            sound = root / "clips_audios" / split / video / f"{entity}.wav"
            sound.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(sound), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes(signal.astype(np.int16).tobytes())
            for time, on in zip(times, speaks, strict=True):
                label = SPEAKING if on else "NOT_SPEAKING"
                lines.append(f"{video},{time:.2f},0.1,0.2,0.3,0.4,{label},{entity},{int(on)},{entity}:0")
        (root / "csv" / f"{split}_orig.csv").write_text("\n".join(lines) + "\n")
    return root


QUICK = SpeakerSettings(epochs=5, frames=20, size=SIDE, rate=3e-3, tracks=2)


def test_from_the_reader_to_the_official_score_and_pictures(tmp_path: Path) -> None:
    data, out = draw_set(tmp_path / "data"), tmp_path / "out"
    squeeze, report = train_speaker(data, "ava", out, QUICK, progress=False)
    assert isinstance(squeeze, Squeeze)
    assert squeeze.apply_mode == "gate"
    truth = data / "csv" / "val_orig.csv"
    assert evaluate_ava(truth, out / "predictions.csv") == report.score
    assert report.score.average_precision > 0.8  # a coin gets one half
    assert report.score.frames == 38
    rates = [epoch.rate for epoch in report.training.epochs]
    assert rates == pytest.approx([QUICK.rate * QUICK.decay**i for i in range(QUICK.epochs)])
    names = {path.name for path in report.written}
    assert {"model.safetensors", "model.squeeze.safetensors", "face.png", "audio.png", "streams.png"} <= names
    assert {row["stream"] for row in report.importance} == {"face", "audio"}
    record = json.loads((out / "report.json").read_text())
    assert record["score"]["average_precision"] == pytest.approx(report.score.average_precision)
    # what is written is what was trained: weights and blocks give the same scores
    again = load(
        out / "model.squeeze.safetensors", load_light_asd(out / "model.safetensors"), _example("ava", "cpu", SIDE)
    )
    faces, mfcc, _ = Groups(AvaFolder(data, "val", size=SIDE), None)[0]
    with torch.no_grad():
        torch.testing.assert_close(again(faces, mfcc), squeeze(faces, mfcc))
    assert importance(again, (faces, mfcc), target=1).names == ["face", "audio"]


def test_bodies_come_in_as_a_third_stream_and_a_finished_run_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = draw_set(tmp_path / "data", bodies=True), tmp_path / "out"
    settings = SpeakerSettings(epochs=1, frames=20, size=SIDE, tracks=1)
    squeeze, report = train_speaker(data, "wasd", out, settings, progress=False)
    assert isinstance(squeeze, Squeeze)
    assert set(squeeze.places) == {"face", "body", "audio"}
    assert (out / "figures" / "body.png").is_file()
    again = train_speaker(data, "wasd", out, settings, progress=False)[1]
    assert again.training.resumed_at == report.training.steps
    assert again.score == report.score
    with pytest.raises(InputError, match="unknown layout"):
        train_speaker(data, "columbia", out)  # type: ignore[arg-type]
    main(["--data", str(data), "--layout", "ava", "--out", str(tmp_path / "plain"), "--epochs", "1", "--no-block",
          "--no-variation", "--frames", "60", "--size", str(SIDE)])  # fmt: skip
    assert "mAP" in capsys.readouterr().out
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    assert not (tmp_path / "plain" / "model.squeeze.safetensors").exists()


def _in_a_group(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    settings = SpeakerSettings(epochs=1, frames=30, size=SIDE, tracks=1, vary=False)
    train_speaker(data, "ava", out, settings, progress=False)


def test_two_processes_score_every_track_once(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "data")
    together(_in_a_group, 2, data, tmp_path / "two")
    found = evaluate_ava(data / "csv" / "val_orig.csv", tmp_path / "two" / "predictions.csv")
    assert found.frames == 38
    with (tmp_path / "two" / "predictions.csv").open() as file:
        assert len({row["score"] for row in csv.DictReader(file)}) > 20


# --- parts --------------------------------------------------------------------------------------------------


def test_batches_hold_tracks_of_like_length_and_no_more_frames_than_asked(tmp_path: Path) -> None:
    folder = AvaFolder(draw_set(tmp_path / "data"), "train", size=SIDE)
    groups = Groups(folder, 20)
    assert sorted(i for group in groups.groups for i in group) == [0, 1, 2, 3]
    for i in range(len(groups)):
        faces, mfcc, speaking = groups[i]
        assert faces.shape[0] * faces.shape[1] <= 20
        assert mfcc.shape == (len(faces), 4 * faces.shape[1], 13)
        assert speaking.shape == faces.shape[:2]
    assert len({len(folder.entities[i]) for i in groups.groups[0]}) == 1
    alone = Groups(folder, 1)
    assert [len(group) for group in alone.groups] == [1, 1, 1, 1]


def test_variation_moves_all_frames_alike_and_voices_are_mixed(tmp_path: Path) -> None:
    clip = torch.arange(SIDE, dtype=torch.uint8).repeat(3, SIDE, 1) * 10
    torch.manual_seed(0)
    kinds = [varied(clip) for _ in range(24)]
    assert all(torch.equal(one[0], one[1]) and torch.equal(one[0], one[2]) for one in kinds)
    assert any(torch.equal(one, clip) for one in kinds)
    assert any(torch.equal(one, clip.flip(-1)) for one in kinds)
    assert len({one.sum().item() for one in kinds}) > 4
    folder = AvaFolder(draw_set(tmp_path / "data"), "train", size=SIDE)
    plain, mixed = Groups(folder, 60), Groups(folder, 60, vary=True)
    torch.manual_seed(1)
    sounds = [mixed[0][1] for _ in range(4)]
    own = plain[0][1]
    same = [torch.equal(a, b) for sound in sounds for a, b in zip(sound, own, strict=True)]
    assert any(same)
    assert not all(same)


def test_the_loss_weighs_the_face_and_cools() -> None:
    settings = SpeakerSettings(visual=0.5, temperature=1.3, cooling=0.02)
    loss = SpeakerLoss(settings)
    logits, face = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    speaking = torch.tensor([[0, 1, 1], [1, 0, 0]])

    def cross(values: torch.Tensor, temperature: float) -> torch.Tensor:
        likely = (values / temperature).softmax(-1)[..., 1]
        return nn.functional.binary_cross_entropy(likely, speaking.float())  # as published

    for epoch, temperature in ((0, 1.3), (10, 1.1)):
        loss.set_epoch(epoch)
        expected = cross(logits, temperature) + 0.5 * cross(face, temperature)
        torch.testing.assert_close(loss((logits, [face]), speaking), expected)


def test_visual_heads_see_the_encoder_and_leave_no_hook() -> None:
    torch.manual_seed(0)
    model = LightASD().eval()
    module = WithVisualHeads(model, [model.visual]).eval()
    faces = torch.randint(0, 256, (1, 2, SIDE, SIDE), dtype=torch.uint8)
    mfcc = torch.randn(1, 8, 13)
    with torch.no_grad():
        scores, (visual,) = module(faces, mfcc)
        torch.testing.assert_close(visual, module.heads[0](model.visual(faces)))
        torch.testing.assert_close(scores, model(faces, mfcc))
    assert not model.visual._forward_hooks
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in model.parameters()) + 2 * 128 + 2
    assert set(SITES["ava"]) == {"face", "audio"}
