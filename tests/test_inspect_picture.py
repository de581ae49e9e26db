"""``squeezecam inspect --out``: the native grid over a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from squeezecam import cli
from squeezecam.render.grid import LINE, lines_over

FACTORY = """
import torch
from torch import nn

def net():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    def pixels(picture):  # the middle square, 64 pixels wide
        import numpy as np
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side)).resize((64, 64))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
    return model, pixels
"""


def main(arguments: list[str]) -> int:
    """The exit code of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["squeezecam", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return int(left.value.code or 0)


def is_line(picture: Image.Image, x: int, y: int) -> bool:
    return picture.getpixel((x, y)) == LINE


def test_lines_lie_between_the_cells_of_the_part_that_is_seen() -> None:
    picture = Image.new("RGB", (120, 80), (200, 0, 0))
    drawn = lines_over(picture, 2, 4, (20, 0, 100, 80))
    assert [x for x in range(120) if is_line(drawn, x, 10)] == [40, 60, 80]
    assert [y for y in range(80) if is_line(drawn, 50, y)] == [40]
    assert not is_line(drawn, 10, 40)  # what is cut away has no cells, and is dimmed
    assert drawn.getpixel((10, 10)) != (200, 0, 0)
    assert drawn.getpixel((50, 10)) == (200, 0, 0)
    assert np.array_equal(np.asarray(picture), np.asarray(Image.new("RGB", (120, 80), (200, 0, 0))))


def test_small_cells_keep_thin_lines() -> None:
    drawn = lines_over(Image.new("RGB", (40, 40)), 10, 10)
    assert is_line(drawn, 4, 1)
    assert drawn.getpixel((6, 6)) == (0, 0, 0)


@pytest.mark.parametrize("image", [False, True])
def test_command_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str], image: bool) -> None:
    (tmp_path / "nets.py").write_text(FACTORY, encoding="utf-8")
    Image.fromarray(np.full((90, 200, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    out = tmp_path / "grid.png"
    given = ["inspect", "--model", f"{tmp_path / 'nets.py'}:net", "--out", str(out)]
    assert main([*given, *(["--image", str(tmp_path / "wide.png")] if image else [])]) == 0
    said = capsys.readouterr()
    assert f"{out}" in said.out + said.err
    with Image.open(out) as opened:
        panel = opened.convert("RGB")
    pixels = np.asarray(panel)
    yellow = (pixels == LINE).all(2)
    assert (yellow.sum(0) > 0.3 * panel.height).sum() == 7  # 8 columns of cells
    assert (yellow.sum(1) > 0.2 * panel.width).sum() == 7


def test_a_picture_without_a_place_to_write_to_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["inspect", "--image", str(tmp_path / "a.png")]) == 1
    assert "--out" in capsys.readouterr().err


def test_json_stays_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json", "--out", str(tmp_path / "g.png")]) == 0
    assert json.loads(capsys.readouterr().out)["places"]["map"]["grid"] == [12, 12]
    assert (tmp_path / "g.png").is_file()


def test_grid_of_a_signal_and_of_a_volume() -> None:
    import torch

    from squeezecam.inspection import inspect

    signal = nn.Sequential(nn.Conv1d(2, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    assert inspect(signal.eval(), torch.randn(2, 2, 40)).cells() == (1, 10)
    volume = nn.Sequential(nn.Conv3d(1, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3))
    found = inspect(volume.eval(), torch.randn(2, 1, 8, 16, 24))
    assert found.cells() == (4, 6)
    assert found.panel(Image.new("RGB", (24, 16))).width > 300
