"""Every snippet of docs/training.md runs as it stands."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from squeezecam.models.torchvision_guard import ensure_torchvision

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.S) for part in TEXT.split("\n## ")[1:]}
NEEDS = {"The loop that comes along": "accelerate", "Lightning": "lightning", "transformers' Trainer": "transformers"}
NEEDS["Accelerate, by hand"] = "accelerate"


class HF(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        found = {"logits": logits}
        return found if labels is None else {"loss": F.cross_entropy(logits, labels), **found}


class HFData(Dataset[dict[str, Tensor]]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.x[index], "labels": self.y[index]}


def names() -> dict[str, Any]:
    """What the page says is there."""
    torch.manual_seed(0)
    x, y = torch.rand(16, 3, 12, 12), torch.arange(16) % 3
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    data = TensorDataset(x, y)
    return {
        "model": model, "example": x[:2], "data": data, "loader": DataLoader(data, batch_size=8), "pictures": x[:3],
        "hf_model": HF(model), "hf_data": HFData(x, y),
    }  # fmt: skip


@pytest.mark.parametrize("section", [name for name, snippets in SECTIONS.items() if snippets])
def test_snippets_run(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = NEEDS.get(section)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    if needed in ("lightning", "transformers"):
        ensure_torchvision()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    known = names()
    try:
        for snippet in SECTIONS[section]:
            exec(compile(snippet, f"docs/training.md, {section}", "exec"), known)
    finally:
        if needed == "accelerate":
            from accelerate.state import AcceleratorState, GradientState

            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
    squeeze = (
        known["callback"].squeeze(known["trainer"].lightning_module) if section == "Lightning" else known["squeeze"]
    )
    assert squeeze.fitted  # it learned
    if section == "A plain loop":
        assert not squeeze.model.training
        return
    assert list(tmp_path.rglob("model.squeeze.safetensors"))


def test_every_framework_has_a_section() -> None:
    assert [name for name, snippets in SECTIONS.items() if snippets] == ["A plain loop", *NEEDS]
