from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import TwoStreams, leave_identity
from squeezecam import Squeeze, attach, heatmap, load
from squeezecam.change import local_variance, spread_by_change
from squeezecam.errors import FitError, InputError, SiteError
from squeezecam.layout import parse_layout
from squeezecam.models.face_body_audio import FaceBodyAudioASD
from squeezecam.models.light_asd import LightASD, load_light_asd
from squeezecam.sizes import spectrogram_size
from squeezecam.streams import ABLATIONS, MEASURES, StreamImportance, by_group, compared, importance, join

MATERIAL = Path(os.environ.get("SQUEEZECAM_MATERIAL") or Path(__file__).parents[2] / "shared" / "material") / "asd"
needs_material = pytest.mark.skipif(
    not (MATERIAL / "light_asd_ava.pt").is_file(), reason=f"no trained Light-ASD weights in {MATERIAL}"
)
SITES = {"face": "visual.block3", "audio": "audio.block3"}


class Talk(nn.Module):
    """Scores per frame from a face (N, T, h, w) and a sound (N, 2 T, F): the sum of what either says, by known weights.

    Face channel 0 is the brightness and counts ``face`` times, sound channel 0 is the loudness and counts ``audio``
    times; the other channels are there and say nothing.
    """

    def __init__(self, face: float, audio: float) -> None:
        super().__init__()
        self.see = nn.Conv3d(1, 4, 1, bias=False)
        self.hear = nn.Conv2d(1, 6, 1, bias=False)
        self.pool = nn.AvgPool2d((1, 2))
        self.fc = nn.Linear(10, 2)
        with torch.no_grad():
            for layer in (self.see, self.hear):
                layer.weight.fill_(0.5)
                layer.weight[0] = 1.0
            self.fc.weight.zero_()
            self.fc.bias.zero_()
            self.fc.weight[1, 0], self.fc.weight[1, 4] = face, audio

    def forward(self, faces: Tensor, sound: Tensor) -> Tensor:
        seen = self.see(faces[:, None]).mean((3, 4))
        heard = self.pool(self.hear(sound.transpose(1, 2)[:, None])).mean(2)
        return self.fc(torch.cat([seen, heard], 1).transpose(1, 2))


def talk_inputs(frames: int = 6, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, frames, 4, 4, generator=generator),
        torch.rand(batch, 2 * frames, 5, generator=generator),
    )


def talk(face: float = 2.0, audio: float = 1.0, **options: Any) -> Squeeze:
    return attach(Talk(face, audio).eval(), talk_inputs(), at={"face": "see", "audio": "pool"}, **options)


def asd_inputs(frames: int = 6, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randint(0, 256, (batch, frames, 112, 112), generator=generator, dtype=torch.uint8)
    return faces, torch.randn(batch, 4 * frames, 13, generator=generator) * 20


# --- maps per stream ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gates", ["clip", "frame"])
def test_light_asd_gives_a_map_of_the_face_and_one_of_the_sound(gates: Any) -> None:
    torch.manual_seed(0)
    model = LightASD().eval()
    squeeze = leave_identity(attach(model, asd_inputs(), at=SITES, gates=gates))
    inputs = asd_inputs(frames=4, batch=2, seed=1)  # another length than the example's
    with torch.no_grad():
        own = model(*inputs)
    explanation = squeeze.explain(inputs)
    assert torch.equal(explanation.output, own)
    assert explanation.heatmap["face"].shape == (2, 4, 112, 112)
    assert explanation.heatmap["audio"].shape == (2, 13, 16)
    assert explanation.raw["face"].shape == (2, 4, 14, 14)
    assert explanation.raw["audio"].shape == (2, 13, 4)
    assert explanation.gates["face"].shape == ((2, 128) if gates == "clip" else (2, 4, 128))
    assert explanation.target is not None
    assert explanation.target.tolist() == own.mean(1).argmax(1).tolist()


def test_gates_per_frame_are_those_of_each_frame_alone() -> None:
    squeeze = leave_identity(talk(gates="frame", apply="gate"))
    whole = talk_inputs(frames=5, batch=1)
    explanation = squeeze.explain(whole)
    for t in range(5):
        alone = squeeze.explain((whole[0][:, t : t + 1], whole[1][:, 2 * t : 2 * t + 2]))
        torch.testing.assert_close(explanation.gates["face"][:, t], alone.gates["face"][:, 0])
        torch.testing.assert_close(explanation.raw["face"][:, t], alone.raw["face"][:, 0])
        torch.testing.assert_close(explanation.raw["audio"][..., t], alone.raw["audio"][..., 0])
        torch.testing.assert_close(explanation.output[:, t], alone.output[:, 0])  # gated frame by frame
    with torch.no_grad():
        torch.testing.assert_close(squeeze(*whole), explanation.output)


def test_gates_per_frame_need_time() -> None:
    with pytest.raises(SiteError, match="names no time axis"):
        attach(TwoStreams(), (torch.rand(1, 2, 8, 8), torch.rand(1, 2, 8, 8)), gates="frame")
    with pytest.raises(InputError, match="'clip' or 'frame'"):
        talk(gates="second")


def test_padding_does_not_enter_the_squeeze_and_has_no_heat() -> None:
    squeeze = leave_identity(talk())
    faces, sound = talk_inputs(frames=6, batch=1)
    short = squeeze.explain((faces[:, :4], sound[:, :8]))
    padded_faces, padded_sound = faces.clone(), sound.clone()
    padded_faces[:, 4:], padded_sound[:, 8:] = 100.0, 100.0
    padded = squeeze.explain((padded_faces, padded_sound), lengths=torch.tensor([4]))
    for stream in ("face", "audio"):
        torch.testing.assert_close(padded.gates[stream], short.gates[stream])
    torch.testing.assert_close(padded.raw["face"][:, :4], short.raw["face"])
    assert (padded.raw["face"][:, 4:] == 0).all()
    assert (padded.raw["audio"][..., 4:] == 0).all()
    naive = squeeze.explain((padded_faces, padded_sound))
    assert not torch.allclose(naive.gates["face"], short.gates["face"])
    with pytest.raises(InputError, match=r"in 1\.\.6"):
        squeeze.explain((faces, sound), lengths=torch.tensor([7]))


def test_a_missing_stream_is_said_and_the_others_are_explained() -> None:
    torch.manual_seed(0)
    faces, mfcc = asd_inputs(frames=3)
    places = {"face": "face.block3", "body": "body.block3", "audio": "audio.block3"}
    squeeze = attach(FaceBodyAudioASD().eval(), {"faces": faces, "bodies": faces, "mfcc": mfcc}, at=places)
    explanation = squeeze.explain({"faces": faces, "mfcc": mfcc})
    assert set(explanation.heatmap) == {"face", "audio"}
    assert "body: not run in this call" in explanation.status[0]
    assert importance(squeeze, {"faces": faces, "mfcc": mfcc}).names == ["face", "audio"]


@pytest.mark.parametrize(
    ("grid", "shape", "read"),
    [((13, 25), (100, 13), (13, 100)), ((13, 25), (13, 100), (13, 100)), ((20, 50), (200, 80), (80, 200)),
     ((1, 10), (40, 13), (13, 40))],
)  # fmt: skip
def test_a_spectrogram_is_read_either_way_round(
    grid: tuple[int, int], shape: tuple[int, int], read: tuple[int, int]
) -> None:
    assert spectrogram_size(grid, shape) == read


def test_an_adapter_brings_back_streams_and_gates_per_frame(tmp_path: Path) -> None:
    squeeze = leave_identity(talk(gates="frame", apply="gate"))
    squeeze.save(tmp_path / "talk.squeeze.safetensors")
    again = load(tmp_path / "talk.squeeze.safetensors", squeeze.model, talk_inputs(seed=5))
    assert again.per_frame
    inputs = talk_inputs(frames=3, seed=6)
    first, second = squeeze.explain(inputs), again.explain(inputs)
    for stream in ("face", "audio"):
        assert torch.equal(first.raw[stream], second.raw[stream])


def test_streams_are_found_and_named_as_the_model_names_its_inputs() -> None:
    torch.manual_seed(0)
    squeeze = attach(LightASD().eval(), asd_inputs())
    assert list(squeeze.places) == ["faces", "mfcc"]
    assert squeeze.places["mfcc"].layout.text == "n c f t"
    assert squeeze.explain(asd_inputs(frames=2)).heatmap["faces"].shape == (1, 2, 112, 112)


def test_peaks_keep_each_channel_where_it_is_highest_in_every_frame() -> None:
    features = torch.tensor([[[[[1.0, 3.0]], [[5.0, 2.0]]], [[[4.0, 1.0]], [[0.0, 6.0]]]]])
    gates, kept = torch.tensor([[0.5, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    found = heatmap.aggregate(features, gates, kept, "peaks")
    assert found.tolist() == [[[[2.0, 0.75]], [[1.25, 3.0]]]]
    still = heatmap.aggregate(features[:, :, 0, 0], gates, kept, "peaks")  # one axis: one maximum over all of it
    assert still.tolist() == [[2.0, 0.75]]


# --- change over time ---------------------------------------------------------------------------------------


def test_local_variance_is_that_of_the_frames_within_reach() -> None:
    features = torch.randn(2, 3, 9, 4, 5, dtype=torch.double) + 50
    found = local_variance(features, 2, reach=2)
    for t in range(9):
        near = features[:, :, max(0, t - 2) : t + 3]
        torch.testing.assert_close(found[:, :, t], near.var(2, correction=0))
    inside = torch.arange(9) < torch.tensor([[9], [6]])
    padded = local_variance(features, 2, inside, reach=2)
    torch.testing.assert_close(padded[1, :, :6], local_variance(features[1:, :, :6], 2, reach=2)[0])
    assert (padded[1, :, 6:] == 0).all()


def test_change_counts_up_to_a_second_away() -> None:
    features = torch.zeros(1, 1, 60, dtype=torch.double)
    features[0, 0, 45] = 1.0
    found = local_variance(features, 2)[0, 0]
    # One of n frames: (n - 1) / n^2. Around frame 25 there are 0 to 50; around frame 20, 0 to 45; around 19, 0 to 44.
    assert found[25].item() == pytest.approx(50 / 51**2)
    assert found[20].item() == pytest.approx(45 / 46**2)
    assert found[19].item() == pytest.approx(0, abs=1e-12)


def test_heat_goes_to_what_changes_and_every_frame_keeps_its_own() -> None:
    layout = parse_layout("n c t h w")
    features = torch.ones(1, 2, 10, 3, 3)
    features[0, 0, ::2, 2, 1] = 8.0  # flickers at one place; the rest, bright as it is, stays
    features[0, 0, :, 0, 0] = 9.0
    features[0, 1, ::3, 0, 2] = 50.0  # a channel that is not kept
    gates, kept = torch.tensor([[0.6, 0.4]]), torch.tensor([[True, False]])
    raw = heatmap.aggregate(features, gates, kept, "mean")[:, None]
    found = spread_by_change(raw, features, gates, kept, layout)
    torch.testing.assert_close(found.sum((-1, -2)), raw.sum((-1, -2)))
    assert (found[0, 0].flatten(1).argmax(1) == 7).all()
    assert (raw[0, 0].flatten(1).argmax(1) == 0).all()
    # an event at another place and moment gets no heat where it is not
    apart = torch.zeros(1, 2, 20, 3, 3)
    apart[0, 0, 2:6, 0, 1], apart[0, 0, 12:16, 2, 2] = 5.0, 7.0
    brief = spread_by_change(apart[:, :1], apart, gates, kept, layout)[0, 0].flatten(1)
    assert (brief[2:6].argmax(1) == 1).all()
    assert (brief[12:16].argmax(1) == 8).all()
    assert (brief[8:11] == 0).all()
    per_frame = gates[:, None].expand(-1, 10, -1)
    again = spread_by_change(raw, features, per_frame, kept[:, None].expand(-1, 10, -1), layout)
    torch.testing.assert_close(again, found)
    still = spread_by_change(raw[:, :, 1:2], features[:, :, 1:2], gates, kept, layout)
    assert torch.equal(still, raw[:, :, 1:2])  # nothing changes in one frame: its map stays


def test_change_is_the_default_of_streams_over_time_and_can_be_asked_for() -> None:
    squeeze = leave_identity(talk())
    inputs = talk_inputs(frames=9)
    default = squeeze.explain(inputs)
    assert default.method == "published, aggregate=change"
    asked = squeeze.explain(inputs, method="published", aggregate="change")
    published = squeeze.explain(inputs, method="published")
    assert published.method == "published"
    for stream in ("face", "audio"):
        assert torch.equal(default.raw[stream], asked.raw[stream])
        assert not torch.allclose(default.raw[stream], published.raw[stream])
    assert squeeze.explain(talk_inputs(frames=4)).method == "published"  # too short to say what changes
    for i in range(2):
        alone = squeeze.explain((inputs[0][i : i + 1], inputs[1][i : i + 1]))
        torch.testing.assert_close(alone.raw["face"][0], default.raw["face"][i])
    picture = attach(TwoStreams().eval(), (torch.rand(1, 2, 8, 8), torch.rand(1, 2, 8, 8)))
    with pytest.raises(InputError, match="names no time axis"):
        picture.explain((torch.rand(1, 2, 8, 8), torch.rand(1, 2, 8, 8)), method="published", aggregate="change")


def test_a_mask_of_frames_says_the_same_as_lengths() -> None:
    squeeze = leave_identity(talk())
    faces, sound = talk_inputs(frames=10)
    lengths = torch.tensor([10, 8])
    mask = torch.arange(10) < lengths[:, None]
    by_length, by_mask = (squeeze.explain((faces, sound), lengths=given) for given in (lengths, mask))
    for stream in ("face", "audio"):
        assert torch.equal(by_length.gates[stream], by_mask.gates[stream])
        assert torch.equal(by_length.raw[stream], by_mask.raw[stream])
    short = squeeze.explain((faces[1:, :8], sound[1:, :16]))
    torch.testing.assert_close(by_mask.raw["face"][1:, :8], short.raw["face"])
    torch.testing.assert_close(
        importance(squeeze, (faces, sound), target=1, lengths=mask).score[1:],
        importance(squeeze, (faces[1:, :8], sound[1:, :16]), target=1).score,
    )
    gap = mask.clone()
    gap[0, 3] = False  # not only at the end
    holed = squeeze.explain((faces, sound), lengths=gap)
    assert (holed.raw["face"][0, 3] == 0).all()
    assert (holed.raw["face"][0, 4] > 0).any()
    for bad in (mask[:, :5], torch.zeros_like(mask)):
        with pytest.raises(InputError, match="a mask of frames must be"):
            squeeze.explain((faces, sound), lengths=bad)


# --- pictures of several streams ----------------------------------------------------------------------------


def test_every_stream_is_drawn_as_what_it_is(tmp_path: Path) -> None:
    squeeze = leave_identity(talk())
    explanation = squeeze.explain(talk_inputs(frames=9))
    drawn = explanation.overlay()
    assert set(drawn) == {"face", "audio"}
    assert [len(pictures) for pictures in drawn.values()] == [2, 2]
    assert drawn["face"][0].width > 6 * 100  # frames in a row
    sheet = explanation.plot()
    assert sheet.height > sum(pictures[0].height for pictures in drawn.values())
    one = explanation[1]
    assert np.array_equal(np.asarray(one.overlay()["audio"][0]), np.asarray(drawn["audio"][1]))
    names = {path.name for path in explanation.save(tmp_path)}
    assert names == {"000.npz", "001.npz", "sheet.png", *(f"00{i}_{s}.png" for i in (0, 1) for s in ("face", "audio"))}
    given = dict(zip(("face", "audio"), talk_inputs(frames=9, seed=3), strict=True))
    assert not np.array_equal(np.asarray(explanation.overlay(given)["face"][0]), np.asarray(drawn["face"][0]))
    with pytest.raises(InputError, match="map of 'audio'"):
        explanation.overlay({"face": given["face"]})
    explanation.pictures = None
    with pytest.raises(InputError, match="several streams: give what to draw on"):
        explanation.plot()


def test_pictures_of_two_inputs_have_an_overlay_each() -> None:
    inputs = (torch.rand(2, 2, 8, 8), torch.rand(2, 2, 8, 8))
    explanation = attach(TwoStreams().eval(), inputs).explain(inputs)
    drawn = explanation.overlay({name: torch.rand(2, 3, 20, 30) for name in explanation.heatmap})
    assert [picture.size for pictures in drawn.values() for picture in pictures] == [(30, 20)] * 4


def test_streams_are_found_where_the_common_map_is_only_a_curve() -> None:
    torch.manual_seed(0)
    faces, mfcc = (torch.randint(0, 256, (1, 5, 16, 16), dtype=torch.uint8), torch.randn(1, 20, 13))
    inputs = {"faces": faces, "bodies": faces.flip(3), "mfcc": mfcc}
    squeeze = attach(FaceBodyAudioASD().eval(), inputs)
    assert {name: place.module for name, place in squeeze.places.items()} == {
        "faces": "face.block3", "bodies": "body.block3", "mfcc": "audio.block3"
    }  # fmt: skip
    assert squeeze.explain(inputs).heatmap["bodies"].shape == (1, 5, 16, 16)
    assert any("when and not where" in candidate.verdict for candidate in squeeze.candidates)


# --- importance ---------------------------------------------------------------------------------------------


def test_importance_by_hand() -> None:
    squeeze = talk(face=2.0, audio=-1.0)
    faces, sound = talk_inputs()
    found = importance(squeeze, (faces, sound), target=1)
    # the score is logit 1 less logit 0: 2 mean(face) - mean(sound), so taking the face away costs 2 mean(face)
    brightness, loudness = faces.mean((1, 2, 3)).double(), sound.mean((1, 2)).double()
    torch.testing.assert_close(found.score, 2 * brightness - loudness)
    torch.testing.assert_close(found.ablation["zero"], torch.stack([2 * brightness, -loudness], 1))
    assert found.curve is not None
    torch.testing.assert_close(
        found.curve, 2 * faces.mean((2, 3)).double() - sound.unflatten(1, (6, 2)).mean((2, 3)).double()
    )
    torch.testing.assert_close(found.moments["zero"][..., 0], 2 * faces.mean((2, 3)).double())
    # held still, a stream keeps its mean over time: this model's mean score does not change
    torch.testing.assert_close(found.ablation["still"], torch.zeros(2, 2, dtype=torch.double), atol=1e-6, rtol=0)
    # unfitted: all gates 0.5, so that mass is that of the features (face 1 + 3 x 0.5 channels, sound 1 + 5 x 0.5)
    torch.testing.assert_close(found.measures["mean gate"], torch.full((2, 2), 0.5))
    ratio = 2.5 * brightness / (2.5 * brightness + 3.5 * loudness)
    torch.testing.assert_close(found.measures["mass"][:, 0].double(), ratio)
    torch.testing.assert_close(found.measures["top gates"].double(), torch.tensor([[0.4, 0.6]] * 2).double())
    torch.testing.assert_close(found.ablation["mean gates"], torch.zeros(2, 2, dtype=torch.double), atol=1e-6, rtol=0)
    assert found.channels == [4, 6]
    assert set(found.measures) == set(MEASURES)
    assert set(found.ablation) == set(ABLATIONS)


def test_gates_and_ablation_disagree_and_both_are_shown() -> None:
    squeeze = talk(face=3.0, audio=0.1)
    with torch.no_grad():  # gates high for the sound, low for the face
        for stream, sign in (("face", -1.0), ("audio", 1.0)):
            block = squeeze.block(stream)
            block.reduce.weight.fill_(1.0)
            block.expand.weight.fill_(sign)
    found = importance(squeeze, talk_inputs(), target=1)
    orders = {row["measure"]: row["order"] for row in found.rows()}
    assert orders["mean gate"] == "audio > face"
    assert orders["score lost when the stream is set to zero"] == "face > audio"
    text = str(found)
    assert "audio > face" in text
    assert "face > audio" in text


def test_streams_that_differ_by_rounding_alone_are_not_ranked() -> None:
    orders = {row["measure"]: row["order"] for row in importance(talk(), talk_inputs(), target=1).rows()}
    assert orders["mean gate"] == "face = audio"  # unfitted: all gates are 0.5
    assert orders["score lost when its gates are set to their mean (gates in the path)"] == "face = audio"
    assert " > " in orders["score lost when the stream is set to zero"]
    lost = {"zero": torch.tensor([[0.0, 2e-6, 1e-3]])}
    three = StreamImportance(["a", "b", "c"], [1] * 3, {}, lost, torch.ones(1))
    assert three.rows()[0]["order"] == "c > a = b"
    three.ablation["zero"] *= 1e-3
    assert three.rows()[0]["order"] == "a = b = c"  # of a score of 1
    three.score *= 1e-3
    assert three.rows()[0]["order"] == "c > a = b"


def test_keeping_only_top_gates_drops_what_the_others_carried() -> None:
    squeeze = talk(face=2.0, audio=1.0)
    with torch.no_grad():
        for stream in ("face", "audio"):
            block = squeeze.block(stream)
            block.reduce.weight.fill_(1.0)
            block.expand.weight.zero_()
            block.expand.weight[-1] = 5.0  # the last channel, which says nothing, has the only high gate
    found = importance(squeeze, talk_inputs(), target=1, keep="topk:2")
    torch.testing.assert_close(found.ablation["top only"], found.ablation["zero"])


def test_gate_mode_measures_the_gated_model() -> None:
    squeeze = leave_identity(talk(apply="gate"))
    inputs = talk_inputs()
    with torch.no_grad():
        gated = squeeze(*inputs)
    found = importance(squeeze, inputs, target=1)
    torch.testing.assert_close(found.score, (gated[..., 1] - gated[..., 0]).mean(1).double())


def test_segments_after_a_concatenation() -> None:
    torch.manual_seed(0)
    faces, mfcc = asd_inputs(frames=3)
    inputs = {"faces": faces, "bodies": faces.flip(3), "mfcc": mfcc}
    model = FaceBodyAudioASD().eval()
    squeeze = attach(model, inputs, at="fusion")
    parts = {"face": 128, "body": 128, "audio": 128}
    found = importance(squeeze, inputs, segments=parts, target=1)
    assert found.names == ["face", "body", "audio"]
    with torch.no_grad():
        whole, without = model(**inputs), model(**inputs, present=torch.tensor([[True, False, True]]))
    score, less = ((logits[..., 1] - logits[..., 0]).mean(1).double() for logits in (whole, without))
    torch.testing.assert_close(found.ablation["zero"][:, 1], score - less, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="add up to the 384"):
        importance(squeeze, inputs, segments={"face": 128})
    with pytest.raises(InputError, match="one stream"):
        importance(squeeze, inputs)


def test_what_another_sound_changes_is_told_stream_by_stream() -> None:
    squeeze = talk(face=2.0, audio=1.0)
    (faces, sound), (_, louder) = talk_inputs(), talk_inputs(seed=4)
    own = importance(squeeze, (faces, sound), target=1)
    other = importance(squeeze, (faces, louder + 1), target=1)
    rows = {(row["measure"], row["stream"]): row for row in compared(own, other)}
    lost = "score lost when the stream is set to zero"
    gained = float((louder + 1).mean() - sound.mean())
    assert rows["score", "all"]["change"] == pytest.approx(gained, abs=1e-5)
    assert rows[lost, "audio"]["change"] == pytest.approx(gained, abs=1e-5)
    assert rows[lost, "face"]["change"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match="cannot be compared"):
        compared(own, join([other, other]))


def test_streams_without_time_work_too() -> None:
    squeeze = attach(TwoStreams().eval(), (torch.rand(2, 2, 8, 8), torch.rand(2, 2, 8, 8)))
    found = importance(squeeze, (torch.rand(3, 2, 8, 8), torch.rand(3, 2, 8, 8)))
    assert found.curve is None
    assert found.ablation["zero"].shape == (3, 2)
    assert found.ablation["still"].isnan().all()
    assert found.moments == {}


def test_groups_have_their_own_means_and_intervals() -> None:
    squeeze = talk(face=2.0, audio=1.0)
    dim, bright = talk_inputs(batch=8, seed=1), talk_inputs(batch=8, seed=2)
    bright = (bright[0] + 1, bright[1])
    found = join([importance(squeeze, dim, target=1), importance(squeeze, bright, target=1)])
    rows = by_group(found, ["dim"] * 8 + ["bright"] * 8, seed=3)
    zero = {row["group"]: row for row in rows if row["measure"] == "zero" and row["stream"] == "face"}
    assert zero["bright"]["mean"] - zero["dim"]["mean"] == pytest.approx(2.0, abs=0.1)
    for row in zero.values():
        assert row["low"] < row["mean"] < row["high"]
        assert row["clips"] == 8
    assert zero["dim"]["high"] < zero["bright"]["low"]
    assert rows == by_group(found, ["dim"] * 8 + ["bright"] * 8, seed=3)
    with pytest.raises(InputError, match="one per clip"):
        by_group(found, ["a"])


# --- the label-free fit -------------------------------------------------------------------------------------


def test_the_fit_ranks_the_channels_that_decide_in_every_stream() -> None:
    squeeze = talk(face=2.0, audio=1.5, apply="gate")
    batches = [(a - 0.5, b - 0.5) for a, b in (talk_inputs(batch=8, seed=i) for i in range(6))]
    report = squeeze.fit(batches, seed=0)
    assert report.unchanged >= 0.98
    explanation = squeeze.explain(batches[0])
    for stream in ("face", "audio"):
        assert (explanation.gates[stream].argmax(1) == 0).all()  # the one channel with a weight


def test_clips_of_several_lengths_are_refused_with_a_way_out() -> None:
    torch.manual_seed(0)
    squeeze = attach(LightASD().eval(), asd_inputs(), at=SITES)
    with pytest.raises(FitError, match="cut windows of one length"):
        squeeze.fit([asd_inputs(frames=3), asd_inputs(frames=4)])


@needs_material
def test_the_trained_model_keeps_its_frames_and_loses_its_score_without_the_face() -> None:
    model = load_light_asd(MATERIAL / "light_asd_ava.pt")

    def clip(name: str) -> tuple[Tensor, Tensor]:
        data = np.load(MATERIAL / f"{name}.npz")
        return torch.from_numpy(data["faces"])[None], torch.from_numpy(data["mfcc"])[None].float()

    def windows(name: str) -> list[tuple[Tensor, Tensor]]:
        faces, mfcc = clip(name)
        return [(faces[:, i : i + 15], mfcc[:, 4 * i : 4 * i + 60]) for i in range(0, faces.shape[1] - 14, 10)]

    fitting = [window for name in ("grid_sbia1a", "grid_lbax4n") for window in windows(name)]
    squeeze = attach(model, fitting[0], at=SITES, apply="gate")
    squeeze.fit(fitting, seed=0)
    faces, mfcc = clip("grid_id2_vcd_swwp2s")
    with torch.no_grad():
        own, gated = model(faces, mfcc), squeeze(faces, mfcc)
    assert (own.argmax(-1) == gated.argmax(-1)).float().mean() >= 0.98
    found = importance(squeeze, (faces, mfcc), target=1)
    # the trap of the published figures: gates do not say which stream the decision needs
    assert found.ablation["zero"][0, 0] > 2 * found.ablation["zero"][0, 1]
