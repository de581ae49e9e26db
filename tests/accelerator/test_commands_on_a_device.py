"""The command line with ``--device``, on the embedded default."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from devices import demo_pictures
from squeezecam.cli import main

Run = Callable[..., str]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, device: torch.device
) -> Run:
    """Run a command in an empty folder beside ``photos``; it has to end well."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(demo_pictures(12)):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["squeezecam", *map(str, arguments), "--device", str(device)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code in (0, None), said.err
        return said.out

    return call


def written(folder: str, *names: str) -> None:
    for name in names:
        assert (Path(folder) / name).stat().st_size > 0, name


def test_demo(run: Run) -> None:
    assert "predictions unchanged" in run("demo", "--out", "demo")
    written("demo", "demo.png", "demo.txt", "demo.csv", "demo.json", "demo.squeeze.safetensors")
    rows = {row["method"]: row for row in json.loads(Path("demo/demo.json").read_text())["table"]}
    # The README's table, from the CPU: 300 pictures, of which a few may go the other way.
    assert rows["published"]["pointing in box"] == pytest.approx(0.993, abs=0.01)
    assert rows["class"]["pointing in box"] == pytest.approx(0.967, abs=0.01)
    assert rows["random map"]["pointing in box"] == pytest.approx(0.057, abs=0.001)


def test_fit_then_explain(run: Run) -> None:
    run("fit", "--images", "photos", "--out", "a.safetensors", "--tune", "--refine", "--refine-epochs", 1, "--locate")
    written(".", "a.safetensors")
    for method in ("published", "refined", "focus"):
        run("explain", "photos", "--adapter", "a.safetensors", "--method", method, "--out", method)
        written(method, "results.json", "contact_sheet.png")
        assert len(json.loads(Path(method, "results.json").read_text())["results"]) == 12


def test_inspect(run: Run) -> None:
    assert "features" in run("inspect")


def test_compare(run: Run) -> None:
    run("compare", "photos/00.png", "photos/01.png", "--methods", "class,focus,controls", "--out", "compared")
    written("compared", "comparison.png", "comparison.json")


def test_evaluate(run: Run) -> None:
    run("evaluate", "--data", "photos", "--methods", "class,focus", "--sample", 6, "--steps", 3, "--out", "table")
    assert any(Path("table").glob("*.csv"))


def test_video(run: Run) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    from clips import write_clip

    write_clip(Path("clip.mp4"))
    run("video", "clip.mp4", "--out", "overlay.mp4")
    written(".", "overlay.mp4")
