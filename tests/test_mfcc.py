from __future__ import annotations

import math
import os
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from squeezecam.data.mfcc import align, mfcc, read_wav, resample
from squeezecam.errors import InputError

MATERIAL = Path(os.environ.get("SQUEEZECAM_MATERIAL") or Path(__file__).parents[2] / "shared" / "material") / "asd"
CLIPS = sorted(MATERIAL.glob("*.npz"))


def noise(samples: int, seed: int = 0) -> NDArray[np.int16]:
    return (np.random.default_rng(seed).standard_normal(samples) * 3000).astype(np.int16)


def tone(hertz: float, rate: int, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(rate * seconds), dtype=torch.float64) / rate)


def by_definition(samples: NDArray[np.int16], length: int, step: int, nfft: int) -> NDArray[np.float64]:
    """The coefficients written out in loops, from their definition."""
    x = samples.astype(np.float64)
    x = np.array([x[0]] + [x[i] - 0.97 * x[i - 1] for i in range(1, len(x))])
    rows = 1 if len(x) <= length else 1 + math.ceil((len(x) - length) / step)
    x = np.concatenate([x, np.zeros(rows * step + length)])
    edges = [700 * (10 ** (k * 2595 * math.log10(1 + 8000 / 700) / 27 / 2595) - 1) for k in range(28)]
    bins = [math.floor((nfft + 1) * edge / 16000) for edge in edges]
    out = np.zeros((rows, 13))
    for r in range(rows):
        power = np.abs(np.fft.rfft(x[r * step : r * step + length], nfft)) ** 2 / nfft
        logs = []
        for k in range(26):
            low, middle, high = bins[k : k + 3]
            total = sum((i - low) / (middle - low) * power[i] for i in range(low, middle))
            total += sum((high - i) / (high - middle) * power[i] for i in range(middle, high))
            logs.append(math.log(total))
        for c in range(1, 13):
            cosine = sum(v * math.cos(math.pi * c * (2 * k + 1) / 52) for k, v in enumerate(logs)) * math.sqrt(2 / 26)
            out[r, c] = cosine * (1 + 11 * math.sin(math.pi * c / 22))
        out[r, 0] = math.log(power.sum())
    return out


@pytest.mark.parametrize(
    ("fps", "length", "step", "nfft"),
    [(25.0, 400, 160, 512), (30.0, 333, 133, 512), (24.0, 417, 167, 512), (12.5, 800, 320, 1024)],
)
def test_the_coefficients_are_their_definition(fps: float, length: int, step: int, nfft: int) -> None:
    samples = noise(2345)
    found = mfcc(samples, fps=fps).numpy()
    wanted = by_definition(samples, length, step, nfft)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_loudness_moves_the_energy_and_nothing_else() -> None:
    samples = torch.from_numpy(noise(4000)) / 32768
    quiet, loud = mfcc(samples / 10), mfcc(samples)
    torch.testing.assert_close(loud[:, 0] - quiet[:, 0], torch.full((len(loud),), math.log(100)), rtol=0, atol=1e-4)
    torch.testing.assert_close(loud[:, 1:], quiet[:, 1:], rtol=0, atol=1e-3)


def test_integers_and_fractions_of_full_scale_are_the_same_sound() -> None:
    samples = noise(3000)
    torch.testing.assert_close(mfcc(samples), mfcc(torch.from_numpy(samples).double() / 32768), rtol=0, atol=1e-5)


def test_silence_and_one_sample_are_finite() -> None:
    assert torch.isfinite(mfcc(torch.zeros(16000))).all()
    assert mfcc(torch.zeros(16000)).shape == (99, 13)  # 1 + ceil((16000 - 400) / 160)
    assert mfcc(torch.ones(1)).shape == (1, 13)


def test_batches_are_their_rows() -> None:
    a, b = noise(2000), noise(2000, seed=1)
    both = mfcc(np.stack([a, b]))
    torch.testing.assert_close(both, torch.stack([mfcc(a), mfcc(b)]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fps", [23.976, 25.0, 29.97, 50.0])
def test_four_rows_per_frame_at_any_rate(fps: float) -> None:
    # three seconds: within the 1 % that rounding the step to whole samples costs
    assert len(mfcc(torch.randn(48000) / 10, fps=fps)) / (3 * fps) == pytest.approx(4, rel=0.02)


def test_unusable_samples_are_named() -> None:
    with pytest.raises(InputError, match=r"torch.int32; expected int16"):
        mfcc(torch.zeros(100, dtype=torch.int32))
    with pytest.raises(InputError, match="at least one sample"):
        mfcc(torch.zeros(0))
    with pytest.raises(InputError, match="fps is 0"):
        mfcc(torch.zeros(100), fps=0)


@pytest.mark.material
@pytest.mark.skipif(not CLIPS, reason=f"no talking faces in {MATERIAL}")
def test_the_reference_coefficients_of_real_speech_are_reproduced() -> None:
    for path in CLIPS:
        clip = np.load(path)
        found = align(mfcc(clip["audio"]), len(clip["faces"])).numpy()
        np.testing.assert_allclose(found, clip["mfcc"], rtol=0, atol=2e-6 * np.abs(clip["mfcc"]).max())


def test_align_cuts_the_end_and_starts_over_where_rows_are_missing() -> None:
    rows = torch.arange(10.0)[:, None]
    assert align(rows, 2).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert align(rows, 3).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert align(rows, 6).shape == (24, 1)
    with pytest.raises(InputError, match="0 frames"):
        align(rows, 0)


@pytest.mark.parametrize("source", [8000, 11025, 22050, 44100, 48000, 47999])
def test_resampled_tones_stay_what_they_were(source: int) -> None:
    for hertz in (100.0, 1000.0, 3000.0):
        found, wanted = resample(tone(hertz, source), source), tone(hertz, 16000)
        assert abs(len(found) - len(wanted)) <= 1
        inner = slice(500, min(len(found), len(wanted)) - 500)  # away from the silence before and after
        torch.testing.assert_close(found[inner], wanted[inner], rtol=0, atol=1e-4)


def test_what_is_above_the_new_nyquist_frequency_is_removed() -> None:
    for hertz in (9000.0, 12000.0, 20000.0):
        assert resample(tone(hertz, 48000), 48000)[500:-500].abs().max() < 1e-4


def test_resampling_keeps_shape_dtype_and_time() -> None:
    click = torch.zeros(2, 4800)
    click[1, 2400] = 1
    out = resample(click, 48000)
    assert out.shape == (2, 1600)
    assert out.dtype == torch.float32
    assert not out[0].any()
    assert out[1].argmax() == 800
    assert resample(click, 48000, 48000) is click
    with pytest.raises(InputError, match="floating-point"):
        resample(torch.zeros(10, dtype=torch.int16), 8000)
    with pytest.raises(InputError, match="from 0 Hz"):
        resample(click, 0)


def write_wav(path: Path, values: NDArray[np.float64], width: int, rate: int = 16000) -> None:
    """Write (n, channels) in [-1, 1)."""
    scaled = np.round(values * 2 ** (8 * width - 1)).astype(np.int64)
    if width == 1:
        raw = (scaled + 128).astype(np.uint8).tobytes()
    else:
        raw = b"".join(int(v).to_bytes(width, "little", signed=True) for v in scaled.flatten())
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_sample_width_gives_the_same_sound(tmp_path: Path, width: int) -> None:
    values = np.stack([np.linspace(-1, 0.9, 50), np.linspace(0.5, -0.5, 50)], axis=1)
    write_wav(tmp_path / "a.wav", values, width)
    found, rate = read_wav(tmp_path / "a.wav")
    assert rate == 16000
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), values.mean(axis=1), atol=2.0 ** (1 - 8 * width) + 1e-7)


def test_other_rates_are_brought_to_16_khz_unless_told_otherwise(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(440, 48000).numpy()[:, None] * 0.5, 2, rate=48000)
    found, rate = read_wav(tmp_path / "a.wav")
    assert (len(found), rate) == (8000, 16000)
    np.testing.assert_allclose(found[500:-500].numpy(), tone(440, 16000).numpy()[500:-500] * 0.5, atol=1e-3)
    as_stored, rate = read_wav(tmp_path / "a.wav", sample_rate=None)
    assert (len(as_stored), rate) == (24000, 48000)


def test_the_extensible_header_is_read(tmp_path: Path) -> None:
    samples = noise(100)
    guid = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", 200) + samples.tobytes()
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_allclose(read_wav(tmp_path / "x.wav")[0].numpy(), samples / 32768, atol=1e-7)


def test_a_file_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.full((100, 1), 0.25), 2)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-51])
    assert read_wav(tmp_path / "a.wav")[0].tolist() == [0.25] * 74


def test_files_that_are_no_sound_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"not a sound at all, but long enough for a header of forty-four")
    with pytest.raises(InputError, match="not a PCM WAV file"):
        read_wav(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"")
    with pytest.raises(InputError, match="ends too early"):
        read_wav(tmp_path / "b.wav")
    with pytest.raises(InputError, match="cannot be read"):
        read_wav(tmp_path / "none.wav")
