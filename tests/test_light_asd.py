from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from squeezecam.errors import InputError, ModelError
from squeezecam.models.face_body_audio import FaceBodyAudioASD
from squeezecam.models.light_asd import UNUSED_KEYS, LightASD, load_light_asd, rename_published, speaking

MATERIAL = Path(os.environ.get("SQUEEZECAM_MATERIAL") or Path(__file__).parents[2] / "shared" / "material") / "asd"
WEIGHTS = MATERIAL / "light_asd_ava.pt"
needs_material = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no trained Light-ASD weights at {WEIGHTS}")


def clip(frames: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randint(0, 256, (batch, frames, 112, 112), generator=generator, dtype=torch.uint8)
    return faces, torch.randn(batch, 4 * frames, 13, generator=generator) * 20


def outputs_of(model: torch.nn.Module, names: list[str], *inputs: Tensor, **keywords: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out))
        for name in names
    ]
    with torch.inference_mode():
        model(*inputs, **keywords)
    for handle in handles:
        handle.remove()
    return seen


@pytest.fixture(scope="module")
def light() -> LightASD:
    torch.manual_seed(0)
    return LightASD().eval()


def test_the_maps_to_gate_are_module_outputs_and_feed_the_rest(light: LightASD) -> None:
    faces, mfcc = clip(3)
    seen = outputs_of(light, ["visual.block3", "audio.block3", "visual", "audio"], faces, mfcc)
    assert seen["visual.block3"].shape == (1, 128, 3, 14, 14)
    assert seen["audio.block3"].shape == (1, 128, 13, 3)
    # what the streams hand on is the spatial maximum and the mean over coefficients of exactly those maps
    torch.testing.assert_close(seen["visual"], seen["visual.block3"].amax((3, 4)).transpose(1, 2), rtol=0, atol=0)
    torch.testing.assert_close(seen["audio"], seen["audio.block3"].mean(2).transpose(1, 2), rtol=0, atol=0)


def test_zeroing_both_maps_by_hooks_leaves_the_logits_without_any_input(light: LightASD) -> None:
    def zero(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output * 0

    handles = [light.get_submodule(n).register_forward_hook(zero) for n in ("visual.block3", "audio.block3")]
    try:
        with torch.inference_mode():
            one, other = light(*clip(4, seed=1)), light(*clip(4, seed=2))
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(one, other)
    with torch.inference_mode():
        assert not torch.allclose(light(*clip(4, seed=1)), light(*clip(4, seed=2)))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_one_pair_of_logits_per_frame_for_any_length(light: LightASD, frames: int) -> None:
    with torch.inference_mode():
        assert light(*clip(frames)).shape == (1, frames, 2)


def test_integers_and_floats_of_the_same_pixels_agree_and_samples_do_not_mix(light: LightASD) -> None:
    faces, mfcc = clip(3, batch=2)
    with torch.inference_mode():
        both = light(faces, mfcc)
        torch.testing.assert_close(light(faces.float(), mfcc), both, rtol=0, atol=0)
        torch.testing.assert_close(light(faces[1:], mfcc[1:]), both[1:], rtol=1e-4, atol=1e-5)


def test_the_future_reaches_the_first_frame_and_the_past_the_last() -> None:
    # beyond the encoders' reach of 6 frames either way only the two GRUs can carry it
    torch.manual_seed(0)
    recurrent = LightASD().eval().recurrent
    x = torch.randn(1, 20, 128)
    y = x.clone()
    y[:, -1] += 1
    with torch.inference_mode():
        assert not torch.allclose(recurrent(x)[:, 0], recurrent(y)[:, 0], atol=1e-7)
        assert not torch.allclose(recurrent(x.flip(1))[:, -1], recurrent(y.flip(1))[:, -1], atol=1e-7)


def test_speaking_is_decided_by_the_speaking_logit_alone() -> None:
    assert speaking(torch.tensor([[5.0, 0.1], [-5.0, -0.1]])).tolist() == [True, False]


def test_wrong_shapes_are_named(light: LightASD) -> None:
    faces, mfcc = clip(3)
    with pytest.raises(InputError, match=r"mfcc has shape \(1, 11, 13\).*\(1, 12, 13\)"):
        light(faces, mfcc[:, :11])
    with pytest.raises(InputError, match=r"faces have shape \(3, 112, 112\)"):
        light(faces[0], mfcc)


def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Spell the keys as the published checkpoint does, independently of the loader's own table."""
    names = {}
    for key, value in weights.items():
        stream, *rest = key.split(".")
        letter = "s" if stream == "visual" else "m"
        if stream in ("visual", "audio"):
            block, path, position, leaf = rest
            place = int(position)
            kind = "last" if path == "mix" else f"{letter if place < 3 else 't'}_{path[-1]}"
            key = f"model.{stream}Encoder.{block}.{'bn_' if place % 3 else ''}{kind}.{leaf}"
        elif stream == "recurrent":
            key = f"model.GRU.gru_{rest[0].removesuffix('s')}.{rest[1]}"
        else:
            key = f"lossAV.FC.{rest[0]}"
        names[key] = value
    return names | {key: torch.zeros(2, 128) for key in UNUSED_KEYS}


def test_the_published_keys_load_strictly(light: LightASD, tmp_path: Path) -> None:
    weights = published(light.state_dict())
    assert "model.visualEncoder.block1.bn_s_3.running_mean" in weights
    assert "model.audioEncoder.block3.bn_last.weight" in weights
    torch.save(weights, tmp_path / "whole.pt")
    loaded = load_light_asd(tmp_path / "whole.pt")
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(*clip(2)), light(*clip(2)))

    short = dict(weights)
    del short["model.GRU.gru_backward.bias_hh_l0"]
    torch.save(short, tmp_path / "short.pt")
    with pytest.raises(ModelError, match=r"1 keys missing \['recurrent.backwards.bias_hh_l0'\]"):
        load_light_asd(tmp_path / "short.pt")
    torch.save(weights | {"model.extra.weight": torch.zeros(1)}, tmp_path / "long.pt")
    with pytest.raises(ModelError, match=r"1 unknown \['model.extra.weight'\]"):
        load_light_asd(tmp_path / "long.pt")
    torch.save(weights | {"lossAV.FC.bias": torch.zeros(3)}, tmp_path / "bent.pt")
    with pytest.raises(ModelError, match=r"classifier.bias has shape \(3,\); expected \(2,\)"):
        load_light_asd(tmp_path / "bent.pt")


def test_normalisation_is_the_published_one_which_no_checkpoint_says(light: LightASD) -> None:
    norms = [m for m in light.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d)]
    assert len(norms) == 2 * 3 * 5  # two encoders of three blocks, each with two paths of two layers and a mix
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 1e-2)}


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file"):
        load_light_asd(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_light_asd(tmp_path / "text.pt")
    torch.save(LightASD(), tmp_path / "pickled.pt")  # a whole module: reading it would run code from the file
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_light_asd(tmp_path / "pickled.pt")


# --- the trained model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> LightASD:
    return load_light_asd(WEIGHTS)


def decide(model: LightASD, name: str) -> tuple[np.ndarray, np.lib.npyio.NpzFile]:
    file = np.load(MATERIAL / f"{name}.npz")
    with torch.inference_mode():
        logits = model(torch.from_numpy(file["faces"])[None], torch.from_numpy(file["mfcc"])[None])
    return speaking(logits)[0].numpy(), file


@needs_material
@pytest.mark.material
def test_every_key_of_the_trained_weights_is_accounted_for(trained: LightASD) -> None:
    weights = torch.load(WEIGHTS, weights_only=True)
    assert set(weights) >= set(UNUSED_KEYS)
    assert rename_published(weights).keys() == trained.state_dict().keys()
    assert sum(p.numel() for p in trained.parameters()) == 1_021_378


@needs_material
@pytest.mark.material
def test_the_trained_model_follows_the_word_alignment(trained: LightASD) -> None:
    decided, file = decide(trained, "grid_id2_vcd_swwp2s")
    assert (decided == file["speaking"]).mean() == pytest.approx(0.959, abs=5e-4)


@needs_material
@pytest.mark.material
@pytest.mark.parametrize(
    ("name", "share"),
    [("hamilton_performer_speaking", 0.90), ("hamilton_audience_woman_offscreen_voice", 0.00)],
)
def test_the_trained_model_tells_performer_from_listener(trained: LightASD, name: str, share: float) -> None:
    assert decide(trained, name)[0].mean() == pytest.approx(share, abs=5e-3)


# --- face, body and audio ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def triple() -> FaceBodyAudioASD:
    torch.manual_seed(0)
    return FaceBodyAudioASD().eval()


def test_the_fusion_is_face_body_audio_in_that_order(triple: FaceBodyAudioASD) -> None:
    faces, mfcc = clip(3)
    bodies, _ = clip(3, seed=1)
    names = ["face", "body", "audio", "fusion", "face.block3", "body.block3", "audio.block3"]
    seen = outputs_of(triple, names, faces, bodies, mfcc)
    assert seen["face.block3"].shape == seen["body.block3"].shape == (1, 128, 3, 14, 14)
    assert seen["audio.block3"].shape == (1, 128, 13, 3)
    assert torch.equal(seen["fusion"], torch.cat([seen[n] for n in FaceBodyAudioASD.streams], dim=-1))


def test_a_missing_stream_enters_the_fusion_as_zeros(triple: FaceBodyAudioASD) -> None:
    faces, mfcc = clip(3)
    fused = outputs_of(triple, ["fusion"], faces=faces, mfcc=mfcc)["fusion"]
    assert fused.shape == (1, 3, 384)
    assert (fused[..., 128:256] == 0).all()
    assert (fused[..., :128] != 0).any()
    assert (fused[..., 256:] != 0).any()
    assert outputs_of(triple, ["fusion"], mfcc=mfcc)["fusion"].shape == (1, 3, 384)


def test_streams_may_be_missing_per_sample_whatever_stands_in_for_them(triple: FaceBodyAudioASD) -> None:
    faces, mfcc = clip(3, batch=2)
    bodies = clip(3, batch=2, seed=1)[0].float()
    bodies[1] = float("nan")
    present = torch.tensor([[True, True, True], [True, False, True]])
    with torch.inference_mode():
        both = triple(faces, bodies, mfcc, present)
        torch.testing.assert_close(both[:1], triple(faces[:1], bodies[:1], mfcc[:1]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both[1:], triple(faces[1:], None, mfcc[1:]), rtol=1e-4, atol=1e-5)


def test_the_last_frame_reaches_the_first_by_attention(triple: FaceBodyAudioASD) -> None:
    x = torch.randn(1, 20, 384)
    y = x.clone()
    y[:, -1] = torch.randn(384)  # not a shift: that a projection after layer norm could remove
    with torch.inference_mode():
        assert (triple.attention(x)[:, 0] - triple.attention(y)[:, 0]).abs().max() > 1e-4


def test_three_streams_learn_which_clips_speak() -> None:
    torch.manual_seed(0)
    model = FaceBodyAudioASD(dropout=0.0)
    faces, mfcc = clip(2, batch=4)
    bodies, _ = clip(2, batch=4, seed=1)
    target = torch.tensor([0, 1, 0, 1])[:, None].expand(4, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(5):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(faces, bodies, mfcc).flatten(0, 1), target.flatten())
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "block" in n)
    assert (model(faces, bodies, mfcc).argmax(-1) == target).all()


def test_streams_that_do_not_fit_are_named(triple: FaceBodyAudioASD) -> None:
    faces, mfcc = clip(3)
    with pytest.raises(InputError, match="no stream was given"):
        triple()
    with pytest.raises(InputError, match=r"'faces': \(1, 3\), 'bodies': \(1, 2\)"):
        triple(faces, faces[:, :2], mfcc)
    with pytest.raises(InputError, match=r"mfcc has shape \(1, 11, 13\); expected \(batch, 4 x frames, 13\)"):
        triple(mfcc=mfcc[:, :11])
    with pytest.raises(InputError, match=r"present has shape \(1, 2\)"):
        triple(faces, None, mfcc, torch.ones(1, 2))
