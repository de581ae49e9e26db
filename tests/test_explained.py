"""Pictures of an explanation from Python: overlays, sheets, folders, captions, pictures in any form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import squeezecam
from conftest import ConvNet
from squeezecam.errors import InputError, SqueezeWarning
from squeezecam.explanation import Explanation
from squeezecam.render.explained import as_pictures, caption, overlays, save, sheet
from squeezecam.render.overlay import overlay
from squeezecam.render.scale import Scale


def explanation(n: int = 3, *, scores: torch.Tensor | None = None, **given: object) -> Explanation:
    """Maps of 8 x 8 for pictures of 16 x 12; the i-th is hot in one cell, i + 1 times as much."""
    heat = torch.zeros(n, 8, 8)
    for i in range(n):
        heat[i, 2, 5] = i + 1.0
    values = scores if scores is not None else torch.tensor([[2.0, 0.0, -1.0]]).expand(n, 3)
    fields: dict[str, object] = {
        "heatmap": heat,
        "raw": heat[:, ::2, ::2],
        "gates": torch.full((n, 4), 0.5),
        "kept": torch.tensor([[True, False, False, True]]).expand(n, 4),
        "output": values,
        "method": "published",
        "status": ["ok"] * n,
        "target": torch.zeros(n, dtype=torch.long),
        "scores": values,
        "pictures": torch.rand(n, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 4 - 2,
    }
    return Explanation(**(fields | given))  # type: ignore[arg-type]


def test_a_folder_holds_an_overlay_and_the_maps_of_each_sample_and_a_sheet(tmp_path: Path) -> None:
    explained = explanation()
    written = save(explained, tmp_path / "out")
    names = {f"00{i}.{suffix}" for i in range(3) for suffix in ("png", "npz")} | {"sheet.png"}
    assert {path.name for path in written} == {path.name for path in (tmp_path / "out").iterdir()} == names
    with np.load(tmp_path / "out" / "001.npz") as maps:
        np.testing.assert_array_equal(maps["heatmap"], explained.heatmap[1])
        np.testing.assert_array_equal(maps["raw"], explained.raw[1])
        assert maps["kept"].tolist() == [True, False, False, True]
        assert maps["gates"].shape == (4,)
    with Image.open(tmp_path / "out" / "000.png") as picture:
        assert picture.size == (16, 12)


def test_maps_of_other_ranks_and_of_streams_are_saved_without_pictures(tmp_path: Path) -> None:
    signal = explanation(heatmap=torch.rand(3, 50), pictures=None)
    assert {path.name for path in save(signal, tmp_path / "a")} == {"000.npz", "001.npz", "002.npz"}
    with pytest.raises(InputError, match="3, 50"):
        overlays(signal, [Image.new("RGB", (4, 4))] * 3)
    streams = explanation(heatmap={"face": torch.rand(3, 8, 8), "body": torch.rand(3, 8, 8)})
    save(streams, tmp_path / "b")
    with np.load(tmp_path / "b" / "000.npz") as maps:
        assert {"heatmap.face", "heatmap.body"} <= set(maps)
    with pytest.raises(InputError, match="face, body"):
        sheet(streams)


def test_a_shared_scale_is_that_of_all_samples() -> None:
    explained = explanation()
    picture = Image.new("RGB", (16, 12), (90, 90, 90))
    shared = overlays(explained, [picture] * 3, scale="shared")
    alone = overlays(explained, [picture] * 3)
    for i, drawn in enumerate(shared):
        expected = overlay(picture, explained.heatmap[i].numpy(), scale=Scale(0.0, 3.0))
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert np.array_equal(np.asarray(alone[0]), np.asarray(alone[2]))  # each up to its own maximum
    assert not np.array_equal(np.asarray(shared[0]), np.asarray(shared[2]))
    bar = sheet(explained, [picture] * 3, scale="shared")
    assert bar.height != sheet(explained, [picture] * 3).height  # one colour bar in place of three lines of numbers


@pytest.mark.parametrize("form", ["array", "gray array", "one channel", "float array", "PIL", "RGBA", "file", "text"])
def test_pictures_in_any_form_are_the_same_picture(form: str, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    rgb = np.stack([gray] * 3, -1)
    Image.fromarray(rgb).save(tmp_path / "picture.png")
    given = {
        "array": rgb,
        "gray array": gray,
        "one channel": gray[..., None],
        "float array": rgb / 255,
        "PIL": Image.fromarray(gray),
        "RGBA": Image.fromarray(rgb).convert("RGBA"),
        "file": tmp_path / "picture.png",
        "text": str(tmp_path / "picture.png"),
    }[form]
    (read,) = as_pictures(explanation(1), [given])
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), rgb)


def test_a_tensor_of_bytes_is_shown_as_it_is_and_other_inputs_are_stretched() -> None:
    values = torch.randint(50, 100, (1, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (read,) = as_pictures(explanation(1), values)
    np.testing.assert_array_equal(np.asarray(read), values[0].permute(1, 2, 0))
    (read,) = as_pictures(explanation(1), values.float() / 100 - 3)
    assert (np.asarray(read).min(), np.asarray(read).max()) == (0, 255)
    (read,) = as_pictures(explanation(1), values[:, :1].float())
    assert np.asarray(read).shape == (12, 16, 3)
    (read,) = as_pictures(explanation(1), torch.full((1, 3, 12, 16), torch.nan))
    assert read.size == (16, 12)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        ([np.zeros((4, 4, 3), np.uint8)] * 2, "2 pictures for 1"),
        ([np.zeros((3, 5, 7), np.uint8)], r"\(3, 5, 7\)"),
        ([np.full((4, 4, 3), 7.5)], "float64"),
        (["missing.png"], "missing.png"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pictures: list[object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        as_pictures(explanation(1), pictures)
    with pytest.raises(InputError, match="pictures="):
        overlays(explanation(1, pictures=None))


def test_captions_say_class_and_probability_or_the_value() -> None:
    share = float(torch.tensor([2.0, 0.0, -1.0]).softmax(0)[0])
    likely = torch.tensor([[0.7, 0.2, 0.1]]).expand(3, 3)
    assert caption(explanation(), 1) == f"class 0 · {share:.1%}"
    assert caption(explanation(scores=likely, scores_are="probabilities"), 0) == "class 0 · 70.0%"
    assert caption(explanation(scores_are="sigmoid"), 1) == f"class 0 · {float(torch.tensor(2.0).sigmoid()):.1%}"
    assert caption(explanation(scores=torch.tensor([41.25, 1, 2]), target=None), 0) == "41.25"
    assert caption(explanation(scores=torch.tensor([[41.25], [1], [2]])), 0) == "41.25"
    assert "not finite" in caption(explanation(scores=torch.full((3, 3), torch.nan)), 0)
    assert caption(explanation(target=torch.zeros(3, 2, dtype=torch.long)), 0) == ""


def test_a_doubt_is_on_the_sheet() -> None:
    fine, doubtful = sheet(explanation(1)), sheet(explanation(1, status=["the map is blank"]))
    assert doubtful.height > fine.height


def test_a_sheet_of_very_many_says_how_many_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeezecam.render.explained.SHEET_LIMIT", 2)
    explained, pictures = explanation(3), [Image.new("RGB", (16, 12))] * 3
    many, all_shown = sheet(explained, pictures), sheet(explained[:2], pictures[:2])
    assert many.size == all_shown.size
    assert not np.array_equal(np.asarray(many), np.asarray(all_shown))  # the line below the tiles


# Clips


def clips(frames: int = 6, **given: object) -> Explanation:
    """Two clips of 12 x 16 pixels; the map is hot in one corner of the first half, or of the second."""
    heat = torch.zeros(2, frames, 12, 16)
    heat[0, : frames // 2, :6, :8] = 1
    heat[1, frames // 2 :, 6:, 8:] = 2
    raw = torch.zeros(2, 2, 2, 2)
    raw[0, 0, 0, 0], raw[1, 1, 1, 1] = 1, 2
    values = torch.tensor([[2.0, 0.0, -1.0]]).expand(2, 3)
    fields: dict[str, object] = {"heatmap": heat, "raw": raw, "scores": values, "output": values,
                                 "pictures": torch.rand(2, 3, frames, 12, 16)}  # fmt: skip
    return explanation(2, **(fields | given))  # type: ignore[arg-type]


def reddest(strip: Image.Image, count: int) -> list[float]:
    """How coloured each of ``count`` frames in a row is."""
    pixels = np.asarray(strip).astype(float)[16:150]
    parts = np.array_split(pixels[:, 16:-16], count, axis=1)
    return [float((part[..., 0] - part[..., 1]).clip(0).mean()) for part in parts]


def test_a_clip_is_saved_as_frames_in_a_row(tmp_path: Path) -> None:
    explained = clips()
    written = save(explained, tmp_path)
    assert {path.name for path in written} == {"000.npz", "000.png", "001.npz", "001.png", "sheet.png"}
    gray = overlays(explained, torch.full((2, 3, 6, 12, 16), 90, dtype=torch.uint8))
    early, late = (reddest(strip, 6) for strip in gray)
    assert max(early[3:]) < min(early[:3])
    assert max(late[:3]) < min(late[3:])
    assert gray[0].width > 6 * 140
    plotted = explained.plot()
    assert plotted.width >= gray[0].width
    assert plotted.height > 2 * gray[0].height
    assert len(explained[1].overlay()) == 1


@pytest.mark.parametrize("form", ["frames first", "gray", "array", "PIL", "arrays"])
def test_clips_in_any_form_are_the_same_clip(form: str) -> None:
    values = torch.randint(0, 256, (2, 1, 6, 12, 16), dtype=torch.uint8).expand(2, 3, 6, 12, 16)
    rgb = values.permute(0, 2, 3, 4, 1).numpy()
    given: object = {
        "frames first": values.transpose(1, 2),
        "gray": values[:, 0],
        "array": values.numpy(),
        "PIL": [[Image.fromarray(frame) for frame in clip] for clip in rgb],
        "arrays": [list(clip) for clip in rgb],
    }[form]
    for one, other in zip(overlays(clips(), given), overlays(clips(), values), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_clips_that_cannot_be_drawn_are_told(tmp_path: Path) -> None:
    with pytest.warns(SqueezeWarning, match=r"without pictures.*\(2, 6, 12, 16\).*1 or 3 colours"):
        written = save(clips(pictures=torch.rand(2, 2, 6, 12, 16)), tmp_path)
    assert {path.name for path in written} == {"000.npz", "001.npz"}
    for given, said in (
        (torch.rand(3, 3, 6, 12, 16), "3 clips for 2"),
        (torch.rand(2, 2, 6, 12, 16), "1 or 3 colours"),
        ([[np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]] * 2, "frames of one size"),
        ([[], []], "of none"),
    ):
        with pytest.raises(InputError, match=said):
            save(clips(), tmp_path / "no", given)
    with pytest.raises(InputError, match="no batch of clips"):
        clips(pictures=None).plot()
    with pytest.raises(InputError, match="not one picture per sample"):  # several targets look alike, and are not one
        overlays(clips(target=torch.zeros(2, 6, dtype=torch.long), pictures=torch.rand(2, 3, 12, 16)))


@pytest.mark.parametrize("shape", [(3, 2, 14, 18), (3, 14, 18)])
def test_maps_are_saved_also_where_there_is_no_picture_to_lay_them_on(tmp_path: Path, shape: tuple[int, ...]) -> None:
    class Spectrograms(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.ndim == 4 else x[:, None].expand(-1, 2, -1, -1))

    x = torch.randn(shape)
    explained = squeezecam.attach(Spectrograms(), x).explain(x)
    with pytest.warns(SqueezeWarning, match="saved without pictures"):
        written = explained.save(tmp_path)
    assert {path.name for path in written} == {"000.npz", "001.npz", "002.npz"}
    with pytest.raises(InputError, match="pass pictures"):
        explained.plot()


class Recurrent(nn.Module):
    """Frames one by one through convolutions, then a recurrent layer over their means."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.features(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        return self.fc(self.rnn(maps)[0][:, -1])


class Spatial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv3d(3, 8, 3, (1, 4, 4), 1), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3, 4)))


@pytest.mark.parametrize(("model", "shape"), [(Recurrent(), (2, 5, 3, 24, 32)), (Spatial(), (2, 3, 5, 24, 32))])
def test_models_of_clips_are_drawn_from_end_to_end(model: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(shape)
    explained = squeezecam.attach(model, x).explain(x)
    assert explained.heatmap.shape == (2, 5, 24, 32)
    assert len(explained.save(tmp_path)) == 5
    with Image.open(tmp_path / "000.png") as strip:
        assert strip.width > 5 * 140
    assert explained.plot().height > 2 * 150
