"""``squeezecam fit`` on pictures of which the model does not take every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from squeezecam import Squeeze, attach
from squeezecam.commands.fit import fit_pictures
from squeezecam.commands.pictures import Failures
from squeezecam.data.images import ImageSource, find_images
from squeezecam.errors import FitError
from squeezecam.models.loaded import LoadedModel


class Net(nn.Module):
    """Takes 64x64 pictures that are not all black."""

    def __init__(self, flatten: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 8), nn.ReLU())
        self.flatten = flatten
        self.fc = nn.Linear(16 * 8 * 8 if flatten else 16, 4)
        self.pictures = 0

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.amax((1, 2, 3)) < 0).any()):
            raise ValueError("too dark\nto see")
        self.pictures += len(x)
        seen = self.features(x)
        found: Tensor = self.fc(seen.flatten(1) if self.flatten else seen.mean((2, 3)))
        return found


def pixels(picture: Image.Image) -> Tensor:
    data = torch.tensor(list(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255 - 0.1


def loaded_from(model: nn.Module) -> tuple[LoadedModel, Squeeze]:
    model.eval()
    loaded = LoadedModel(model, pixels, None, "net", (3, 64, 64), "made here")
    return loaded, attach(model, torch.rand(2, 3, 64, 64))


def save(folder: Path, count: int, size: tuple[int, int] = (64, 64), name: str = "p") -> None:
    generator = torch.Generator().manual_seed(1)
    for i in range(count):
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{name}{i:02}.png")


def fitted(
    tmp_path: Path, model: nn.Module, sources: list[ImageSource], **options: Any
) -> tuple[Any, Failures, list[int]]:
    loaded, squeeze = loaded_from(model)
    failures, told = Failures(), []
    report = fit_pictures(
        loaded, squeeze, sources, tmp_path / "a.safetensors", batch_size=4, failures=failures, done=told.append,
        **options,
    )  # fmt: skip
    return report, failures, told


def test_a_picture_that_the_model_fails_on_is_named_and_left_out(tmp_path: Path) -> None:
    save(tmp_path, 13)
    Image.new("RGB", (64, 64)).save(tmp_path / "p05.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "p11.png")
    report, failures, told = fitted(tmp_path, Net(), find_images([str(tmp_path)]))
    assert report.samples + report.held_out == 11
    assert [Path(what).name for what, _ in failures.found] == ["p05.png", "p11.png"]
    assert all("too dark to see" in why for _, why in failures.found)
    assert sum(told) == 13  # the bar is full, not over


def test_the_fit_is_that_of_the_good_pictures_alone(tmp_path: Path) -> None:
    save(tmp_path, 16)
    good = find_images([str(tmp_path)])
    alone, _, _ = fitted(tmp_path, Net(), good)
    Image.new("RGB", (64, 64)).save(tmp_path / "z.png")
    beside, failures, _ = fitted(tmp_path, Net(), find_images([str(tmp_path)]))
    assert len(failures) == 1
    assert beside.settings == alone.settings
    assert beside.unchanged == alone.unchanged


def test_nothing_begins_again_while_the_model_takes_them_all(tmp_path: Path) -> None:
    save(tmp_path, 12)
    report, failures, told = fitted(tmp_path, Net(), find_images([str(tmp_path)]))
    assert (report.samples + report.held_out, len(failures), told) == (12, 0, [4, 4, 4])


def test_a_picture_of_a_size_that_the_model_does_not_take_is_left_out(tmp_path: Path) -> None:
    save(tmp_path, 12)
    save(tmp_path, 2, (80, 48), "odd")
    report, failures, _ = fitted(tmp_path, Net(flatten=True), find_images([str(tmp_path)]))
    assert report.samples + report.held_out == 12
    assert [Path(what).name for what, _ in failures.found] == ["odd00.png", "odd01.png"]
    assert all("(3, 48, 80)" in why for _, why in failures.found)


def test_sizes_that_the_fit_cannot_mix_leave_the_rarer_out(tmp_path: Path) -> None:
    class Mixed(Net):
        """The head looks at places, so whole maps are kept, and these must be of one size."""

        def forward(self, x: Tensor) -> Tensor:
            seen = self.features(x)
            found: Tensor = self.fc(seen.square().mean((2, 3)))
            return found

    save(tmp_path, 12)
    save(tmp_path, 3, (80, 48), "odd")
    report, failures, _ = fitted(tmp_path, Mixed(), find_images([str(tmp_path)]))
    assert report.mode == "maps"
    assert report.samples + report.held_out == 12
    assert len(failures) == 3
    assert all("needs one size" in why for _, why in failures.found)


def test_too_few_that_are_left_say_why_the_others_were_left_out(tmp_path: Path) -> None:
    save(tmp_path, 3)
    for i in range(9):
        Image.new("RGB", (64, 64)).save(tmp_path / f"dark{i}.png")
    with pytest.raises(FitError, match=r"too few.*9 of 12 were left out.*too dark to see"):
        fitted(tmp_path, Net(), find_images([str(tmp_path)]))
