"""``squeezecam export``: the file gives what the model gives, for any batch, by position and by keyword."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.errors import ModelError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from squeezecam.commands.export import export_onnx

slow = pytest.mark.skipif(not os.environ.get("SQUEEZECAM_SLOW"), reason="takes long: set SQUEEZECAM_SLOW=1")


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.fc(self.features(pixel_values).mean((2, 3)))


@pytest.mark.parametrize("by_keyword", [False, pytest.param(True, marks=slow)])
def test_another_batch_size_and_the_same_numbers(tmp_path: Path, by_keyword: bool) -> None:
    import onnxruntime

    x = torch.randn(2, 3, 16, 12)
    squeeze = squeezecam.attach(Keyword().eval(), {"pixel_values": x} if by_keyword else x)
    path = tmp_path / "model.onnx"
    found = export_onnx(squeeze, {"pixel_values": x} if by_keyword else x, path, None, None)
    assert found.difference < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(path)
    more = torch.randn(5, 3, 16, 12)
    output, heatmap, gates = session.run(None, {found.inputs[0]: more.numpy()})
    expected = squeeze.explain(more)
    torch.testing.assert_close(torch.from_numpy(output), expected.output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(heatmap), expected.heatmap, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(torch.from_numpy(gates), expected.gates)


@slow
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    class Deciding(Keyword):
        def forward(self, pixel_values: Tensor) -> Tensor:
            y = super().forward(pixel_values)
            return y if y.sum().item() > 1e9 else y + 1

    x = torch.randn(2, 3, 16, 12)
    with pytest.raises(ModelError, match="cannot be exported"):
        export_onnx(squeezecam.attach(Deciding().eval(), x), x, tmp_path / "model.onnx", None, None)
    assert not list(tmp_path.iterdir())
