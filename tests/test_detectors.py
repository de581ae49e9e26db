"""Models that return no class scores: refused with the reason, and the ways on that the page shows, run as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.errors import SiteError, SqueezeWarning
from squeezecam.models.torchvision_guard import ensure_torchvision

PAGE = Path(__file__).resolve().parents[1] / "docs" / "detectors.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the examples of the page leave behind, one after the other in one namespace; each step is kept."""
    ensure_torchvision()
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    space: dict[str, Any] = {}
    kept: list[dict[str, Any]] = []
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), space)
        kept.append(dict(space))
    return {"segmenter": kept[0], "queries": kept[1], "anchors": kept[2], "backbone": kept[3]}


@pytest.mark.parametrize(("name", "size"), [("segmenter", (64, 96)), ("queries", (128, 96)), ("backbone", (96, 128))])
def test_examples_of_the_page_give_a_map(page: dict[str, Any], name: str, size: tuple[int, int]) -> None:
    heatmap = page[name]["heatmap"]
    assert heatmap.shape == (2, *size)
    assert heatmap.isfinite().all()
    assert float(heatmap.max() - heatmap.min()) > 0


def test_queries_get_a_readout(page: dict[str, Any]) -> None:
    assert set(page["queries"]["report"].readouts) == {"output"}


def test_all_scales_pass_the_place(page: dict[str, Any]) -> None:
    squeeze = page["anchors"]["squeeze"]
    assert squeeze.places["map"].module == "detector.body"
    x = torch.randn(2, 3, 64, 96)
    gone = squeeze.predict(x, lambda stream, seen: torch.zeros_like(seen.gates))
    assert torch.equal(gone, squeeze.predict(2 * x, lambda stream, seen: torch.zeros_like(seen.gates)))
    assert not torch.equal(gone, squeeze.model(x))


@pytest.mark.parametrize("turned", [False, True])
def test_rows_of_anchors_are_no_frames(page: dict[str, Any], turned: bool) -> None:
    """(N, anchors, 5 + classes) looks like scores of frames, and (N, 5 + classes, anchors) too."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = page["anchors"]["Anchors"]()

        def forward(self, x: Tensor) -> Tensor:
            found = self.detector(x)
            return found.transpose(1, 2) if turned else found

    with pytest.raises(SiteError, match=r"detectors\.md"):
        squeezecam.attach(Raw().eval(), torch.randn(2, 3, 64, 96))


def test_rows_of_queries_are_said_to_be_averaged(page: dict[str, Any]) -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.queries = nn.Conv2d(3, 8, 3, 2, 1), nn.Parameter(torch.randn(1, 7, 8))
            self.attention, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.body(x).flatten(2).transpose(1, 2)
            return self.fc(self.attention(self.queries.expand(len(x), -1, -1), tokens, tokens)[0])

    with pytest.warns(SqueezeWarning, match="queries or tasks"):
        squeezecam.attach(Queries().eval(), torch.randn(2, 3, 32, 32))


def test_scores_over_time_are_frames_still() -> None:
    class Sounds(nn.Module):
        """Scores for every frame of a spectrogram (N, 1, F, T)."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU()), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(x).mean(2).transpose(1, 2))

    squeeze = squeezecam.attach(Sounds().eval(), torch.randn(2, 1, 20, 30))
    assert squeeze.places["map"].module == "body"  # not the sequence after it, in which frequency is gone
    assert squeeze.explain(torch.randn(2, 1, 20, 30)).heatmap.shape == (2, 20, 30)


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), (4, 8), "plain MLP"),
        (lambda: Recurrent(), (4, 9, 8), "purely recurrent"),
    ],
)
def test_what_has_no_map_is_refused_with_what_to_do(model: Any, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(SiteError, match=said) as error:
        squeezecam.attach(model().eval(), torch.randn(*shape))
    assert "feature-attribution" in str(error.value)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.fc = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cells(x)[0][:, -1])


def test_a_recurrent_network_can_be_given_its_sequence() -> None:
    from squeezecam import Site

    class Mean(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.cells(x)[0]).mean(1)

    x = torch.randn(2, 9, 8)
    squeeze = squeezecam.attach(Mean().eval(), x, at=Site("fc", "input", layout="n l c"))
    assert squeeze.explain(x, method="published").raw.shape == (2, 9)
