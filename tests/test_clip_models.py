"""Models of clips from somebody's own factory: how many frames, in which order, and all the way to an mp4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")

from clips import write_clip
from squeezecam import attach
from squeezecam.commands.options import open_squeeze
from squeezecam.commands.pictures import Failures, example_of, prepare
from squeezecam.commands.video import VideoOptions, VideoOutcome, explain_clip
from squeezecam.data.images import find_images
from squeezecam.errors import InputError, SiteError, SqueezeWarning
from squeezecam.models.clips import DefaultClipPreprocess, as_pixel_frames, clips_of
from squeezecam.models.loaded import DefaultPreprocess, as_is
from squeezecam.models.resolve import load_model
from squeezecam.video.reading import read_frames
from test_video import no_bar

CONVOLUTIONS = """
import torch
from torch import nn

class Net(nn.Module):
    frames, side = 6, 24
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv3d(3, 8, 3, (1, 4, 4), 1), nn.ReLU())
        self.fc = nn.Linear(8, 3)
    def forward(self, x):
        assert x.shape[1:] == (3, 6, 24, 24), x.shape
        return self.fc(self.features(x).mean((2, 3, 4)))

def net():
    return Net()
"""
TRANSFORMERS = """
import torch
from squeezecam.models.torchvision_guard import ensure_torchvision
ensure_torchvision()
import transformers as hf

SMALL = dict(image_size=32, patch_size=16, num_frames=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=32)

def videomae():
    torch.manual_seed(0)
    return hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(tubelet_size=2, **SMALL))

def timesformer():
    torch.manual_seed(0)
    return hf.TimesformerForVideoClassification(hf.TimesformerConfig(**SMALL))
"""
MVIT = """
import torch
from squeezecam.models.torchvision_guard import ensure_torchvision
ensure_torchvision()
from torchvision.models.video.mvit import MSBlockConfig, MViT

def mvit():
    torch.manual_seed(0)
    blocks = [MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
              MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2])]
    model = MViT((32, 32), 4, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True,
                 proj_after_attn=True, num_classes=5)
    model.frames, model.side = 4, 32
    return model
"""


def run(tmp_path: Path, code: str, factory: str, **options: object) -> VideoOutcome:
    file = tmp_path / "own.py"
    file.write_text(code)
    loaded = load_model(f"{file}:{factory}")
    assert loaded.clip
    squeeze = attach(loaded.model, example_of(loaded))
    clip = write_clip(tmp_path / "a.mp4", seconds=0.7, audio=None)  # 14 frames: the last window reaches back
    chosen = VideoOptions(**options)  # type: ignore[arg-type]
    return explain_clip(loaded, squeeze, clip, tmp_path / "o.mp4", chosen, no_bar)


def test_a_network_of_three_dimensional_convolutions(tmp_path: Path) -> None:
    outcome = run(tmp_path, CONVOLUTIONS, "net", figures=tmp_path / "figures")
    assert outcome.frames == 14
    assert len(list(read_frames(tmp_path / "o.mp4"))) == 14
    values = [row["probability"] for row in outcome.rows]
    assert values[0] == values[5] != values[13]  # one score per window; the flash is in the last
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"frames.png", "moments.png"}
    with Image.open(tmp_path / "figures" / "frames.png") as picture:
        assert picture.width > 8 * 150
    assert {"frames.png", "moments.png"} <= {path.name for path in outcome.written}


@pytest.mark.parametrize("factory", ["videomae", "timesformer"])
def test_video_transformers_of_hugging_face(tmp_path: Path, factory: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    outcome = run(tmp_path, TRANSFORMERS, factory)
    assert outcome.frames == 14
    assert all(0 <= row["probability"] <= 1 for row in outcome.rows)


RECURRENT = """
import torch
from torch import nn

class Net(nn.Module):
    frames, side, frames_first = 6, 24, True
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.over_time = nn.LSTM(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)
    def forward(self, x):
        assert x.shape[1:] == (6, 3, 24, 24), x.shape
        seen = self.features(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        return self.fc(self.over_time(seen)[0][:, -1])

def net():
    return Net()
"""


def test_a_network_of_pictures_that_is_run_frame_by_frame(tmp_path: Path) -> None:
    outcome = run(tmp_path, RECURRENT, "net", method="published")
    assert outcome.frames == 14
    values = [row["probability"] for row in outcome.rows]
    assert values[0] == values[5] != values[13]


def test_mvit(tmp_path: Path) -> None:
    pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    assert run(tmp_path, MVIT, "mvit").frames == 14


def test_what_a_model_takes_is_read_from_it() -> None:
    assert clips_of(torch.nn.Conv2d(3, 4, 3)) is None
    found = clips_of(torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3)))
    assert found is not None
    assert (found.frames, found.side, found.channels, found.feed) == (16, 112, 1, as_is)
    clip = torch.rand(2, 3, 4, 5, 6)
    assert torch.equal(as_pixel_frames(clip)["pixel_values"][:, 1], clip[:, :, 1])


def test_longer_sequences_are_thinned_and_one_picture_is_held() -> None:
    each = DefaultPreprocess((8, 8))
    pictures = [Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(9)]
    clip = DefaultClipPreprocess(3, each)(pictures)
    assert clip.shape == (3, 3, 8, 8)
    for k, i in enumerate((0, 4, 8)):
        torch.testing.assert_close(clip[:, k], each(pictures[i]))
    still = DefaultClipPreprocess(3, each)(pictures[2])
    assert torch.equal(still[:, 0], still[:, 2])


class Frames(torch.nn.Module):
    """Frames one by one, and an LSTM over them: ``(N, T, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(channels, 8, 3, 2, 1), torch.nn.ReLU())
        self.lstm, self.fc = torch.nn.LSTM(8, 8, batch_first=True), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.features(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        return self.fc(self.lstm(seen)[0][:, -1])


class Whole(torch.nn.Module):
    """A clip as a whole: ``(N, C, T, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv3d(channels, 8, 3, 1, 1), torch.nn.ReLU())
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("channels", "attached", "frames"), [(2, 6, 6), (4, 6, 6), (6, 8, 8), (3, 6, 1), (1, 6, 3), (3, 3, 5), (6, 6, 6)]
)
def test_a_map_has_the_frames_of_its_clip_whatever_the_channels(channels: int, attached: int, frames: int) -> None:
    for model, turned in ((Frames(channels), False), (Whole(channels), True)):

        def clip(count: int, turned: bool = turned) -> torch.Tensor:
            made = torch.randn(2, count, channels, 16, 20)
            return made.transpose(1, 2) if turned else made

        squeeze = attach(model.eval(), clip(attached))
        found = squeeze.explain(clip(frames), method="published")
        assert found.raw.shape[1] == frames
        assert found.heatmap.shape == (2, frames, 16, 20)
        with torch.no_grad(), pytest.warns(SqueezeWarning, match="not fitted"):
            assert squeeze.as_module("published")(clip(frames))[1].shape == (2, frames, 16, 20)


def test_a_gate_for_every_frame_before_a_known_head() -> None:
    x = torch.randn(3, 3, 8, 16, 16)
    squeeze = attach(Whole(3).eval(), x[:2], apply="gate", gates="frame")
    assert squeeze.head() is not None
    with torch.no_grad():
        squeeze.block().expand.weight.normal_()
    for method in ("published", "class"):
        found = squeeze.explain(x, method=method)
        assert found.raw.shape == (3, 8, 16, 16)
        assert not any("does not do here" in line for line in found.status)


class Turned(torch.nn.Module):
    """Channels last, or a linear stem, before convolutions whose channels are as many as there are frames."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last, self.fc = last, torch.nn.Linear(32, 4)
        self.later = torch.nn.Sequential(torch.nn.Conv3d(16, 32, 3, 1, 1), torch.nn.ReLU())
        self.stem = torch.nn.Conv3d(3, 16, 1) if last else torch.nn.Linear(3, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.movedim(-1, 1)) if self.last else self.stem(x.movedim(1, -1)).movedim(-1, 1)
        return self.fc(self.later(x).mean((2, 3, 4)))


@pytest.mark.parametrize(("last", "shape"), [(True, (2, 16, 20, 24, 3)), (False, (2, 3, 16, 20, 24))])
def test_convolutions_further_on_do_not_say_where_the_channels_are(last: bool, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    squeeze = attach(Turned(last).eval(), x)
    assert squeeze.explain(x, method="published").heatmap.shape == (2, 16, 20, 24)


def test_frames_that_would_become_samples_are_refused() -> None:
    squeeze = attach(Frames(3).eval(), torch.randn(2, 1, 3, 16, 20))
    with pytest.raises(SiteError, match=r"holds 12 samples, the input 2.*attach with a clip of several frames"):
        squeeze.explain(torch.randn(2, 6, 3, 16, 20), method="published")


@pytest.mark.parametrize(
    ("preprocess", "given", "frames"),
    [
        ("lambda pictures: frames(pictures)", 6, 6),
        ("lambda pictures: frames(pictures[::2])", 16, 8),  # it takes every second one: not as many as are stated
        ("lambda pictures: frames([pictures[i * 15 // 5] for i in range(6)])", 16, 6),
    ],
)
def test_a_preprocessing_of_its_own_is_given_what_the_model_says_it_takes(
    tmp_path: Path, preprocess: str, given: int, frames: int
) -> None:
    (tmp_path / "own.py").write_text(
        CONVOLUTIONS
        + f"""
def frames(pictures):
    return torch.stack([torch.zeros(3, 24, 24) + picture.getpixel((0, 0))[0] for picture in pictures], 1)

def own():
    return Net(), {preprocess}
"""
    )
    loaded = load_model(f"{tmp_path / 'own.py'}:own")
    assert loaded.clip
    assert loaded.frames == given
    assert loaded.input_size[1] == frames
    assert loaded.preprocess([Image.new("RGB", (9, 9))] * given).shape[1] == frames


def test_a_still_picture_for_a_preprocessing_that_takes_lists(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        CONVOLUTIONS + "def own():\n    return Net(), lambda pictures: torch.zeros(3, len(pictures), 24, 24)\n"
    )
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    loaded, failures = load_model(f"{tmp_path / 'own.py'}:own"), Failures()
    found = prepare(loaded, find_images(tmp_path / "a.png")[0], failures)
    assert not failures.found
    assert found is not None
    assert found.tensor.shape == (3, 6, 24, 24)


def test_a_model_that_asserts_its_shape_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        CONVOLUTIONS + "def own():\n    return Net(), lambda ps: torch.zeros(3, 6, 9, 9)\n"
    )
    with pytest.raises(InputError, match=r"the model own failed on clips of shape \(2, 3, 6, 9, 9\)"):
        open_squeeze(f"{tmp_path / 'own.py'}:own")
