"""``squeezecam export``: the file gives what the model gives, for any batch, by position and by keyword."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.cli import main
from squeezecam.errors import InputError, ModelError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from squeezecam.commands import export as exporting
from squeezecam.commands.export import TOLERANCE, export_onnx

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


class Several(Keyword):
    """A dict of outputs, one of them under a name that the file needs for itself, and a feature map among them."""

    def __init__(self) -> None:
        super().__init__()
        self.age = nn.Linear(8, 3)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        features = self.features(pixel_values)
        pooled = features.mean((2, 3))
        return {"heatmap": features, "gender": self.fc(pooled), "age": self.age(pooled)}


def test_one_of_several_outputs_is_explained_and_all_keep_their_names(tmp_path: Path) -> None:
    import onnxruntime

    x = torch.randn(2, 3, 16, 12)
    squeeze = squeezecam.attach(Several().eval(), x)
    path = tmp_path / "model.onnx"
    found = export_onnx(squeeze, x, path, None, 2, "age")
    assert (found.explained, found.method, found.target) == ("age", "class", 2)
    assert found.outputs == ["model_heatmap", "gender", "age", "heatmap", "gates"]
    session = onnxruntime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == found.outputs
    more = torch.randn(5, 3, 16, 12)
    gender, age, heatmap = session.run(["gender", "age", "heatmap"], {found.inputs[0]: more.numpy()})
    assert (gender.shape, age.shape) == ((5, 4), (5, 3))
    expected = squeeze.explain(more, method="class", target=2, output="age")
    torch.testing.assert_close(torch.from_numpy(heatmap), expected.heatmap, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "height"}, "no output 'height'; it has"),
        ({"output": "age", "target": 3}, r"must lie in 0\.\.2, got 3"),
    ],
)
def test_an_output_or_class_that_is_not_there_is_refused(tmp_path: Path, options: dict, words: str) -> None:
    x = torch.randn(2, 3, 16, 12)
    squeeze = squeezecam.attach(Several().eval(), x)
    given = {"method": "class", "target": None, **options}
    with pytest.raises(InputError, match=words):
        export_onnx(squeeze, x, tmp_path / "model.onnx", **given)


class _Chance(Keyword):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values) + torch.randn(())


class _Broken(Keyword):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values) / 0.0


@pytest.mark.parametrize(
    ("model", "words"),
    [(_Chance, "'output' differs by .*accepted is 1.0e-03.*draws at random"), (_Broken, "gives NaN or infinity for")],
)
def test_a_file_that_disagrees_with_the_model_is_not_written(tmp_path: Path, model: type[Keyword], words: str) -> None:
    x = torch.randn(2, 3, 16, 12)
    with pytest.raises(ModelError, match=words):
        export_onnx(squeezecam.attach(model().eval(), x), x, tmp_path / "model.onnx", None, None)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch):
    """What stands in for onnxruntime: a session that gives back these arrays by the names asked for."""
    given: dict[str, Tensor] = {}

    class Session:
        def __init__(self, path: str, providers: list[str]) -> None:
            pass

        def run(self, names: list[str], fed: dict) -> list:
            assert fed["input"].shape[0] == 3
            return [given[name].numpy() for name in names]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    return given


class _Two(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor([[4.0, -2.0]] * len(x)), torch.zeros(len(x), 2)


def checked(dtype: torch.dtype = torch.float32) -> float:
    model, larger = _Two(dtype), (torch.zeros(3, 1),)
    expected = exporting._expected(model, larger, ["output", "heatmap"])
    return exporting._checked(model, larger, expected, Path("none.onnx"), ["input"])


def test_the_check_states_the_largest_difference_as_a_share_of_the_largest_value(runtime: dict) -> None:
    runtime["output"] = torch.tensor([[4.0, -2.0], [4.0, -2.0], [4.0, -2.002]])
    runtime["heatmap"] = torch.zeros(3, 2)
    assert checked() == pytest.approx(0.002 / 4, rel=1e-3)
    runtime["heatmap"] = torch.full((3, 2), 0.9e-9)  # beside nothing but zeros: a share of SMALLEST
    assert checked() == pytest.approx(0.9e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["output", "heatmap"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 5.0])
def test_the_check_refuses_nan_infinity_and_other_numbers_in_any_output(runtime: dict, name: str, wrong: float) -> None:
    runtime["output"], runtime["heatmap"] = torch.tensor([[4.0, -2.0]] * 3), torch.zeros(3, 2)
    assert checked() == 0
    runtime[name] = runtime[name].clone()
    runtime[name][1, 1] = wrong
    with pytest.raises(ModelError, match=f"'{name}' differs by .*The usual causes"):
        checked()


def test_a_batch_size_that_was_baked_in_is_refused(runtime: dict) -> None:
    runtime["output"], runtime["heatmap"] = torch.tensor([[4.0, -2.0]] * 2), torch.zeros(3, 2)
    with pytest.raises(ModelError, match="'output' differs"):
        checked()


def test_half_precision_may_differ_by_its_own_rounding(runtime: dict) -> None:
    off = 10 * TOLERANCE
    runtime["output"], runtime["heatmap"] = torch.tensor([[4.0 + 4 * off, -2.0]] * 3), torch.zeros(3, 2)
    assert checked(torch.float16) == pytest.approx(off, rel=1e-3)
    with pytest.raises(ModelError, match=r"accepted is 1\.0e-03"):
        checked(torch.float32)


@pytest.mark.parametrize(
    ("paths", "inputs", "names"),
    [
        ({"output": ()}, ["x"], ["output"]),
        ({"0": (0,), "1": (1,)}, ["x"], ["output0", "output1"]),
        ({"logits": ("logits",), "gates": ("gates",)}, ["logits"], ["model_logits", "model_gates"]),
    ],
)
def test_outputs_keep_the_models_names_and_none_is_given_twice(paths: dict, inputs: list, names: list) -> None:
    value = torch.zeros(1, 2)
    returned = value if () in paths.values() else [value] * 2 if "0" in paths else dict.fromkeys(paths, value)
    squeeze = SimpleNamespace(outputs=paths)
    assert exporting._names(squeeze, returned, inputs) == names


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


def test_the_command_passes_its_options_on_and_says_whose_heatmap_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple] = []

    def made_up(squeeze: squeezecam.Squeeze, example: Tensor, *options: object) -> exporting.Exported:
        asked.append(options)
        return exporting.Exported(
            options[0], ["input"], ["age", "heatmap", "gates"], 2e-6, "age", "class", options[2], "ok"
        )

    monkeypatch.setattr(exporting, "export_onnx", made_up)
    path = tmp_path / "m.onnx"
    words = ["squeezecam", "export", "--onnx", str(path), "--output", "age", "--target", "3", "--method", "class"]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (None, 0)
    assert asked == [(path, "class", 3, "age", [])] * 2
    lines, found = capsys.readouterr().out.split("{", 1)
    assert "heatmap: method 'class', of the output 'age', its class 3" in lines
    assert "outputs: age, heatmap, gates" in lines
    record = json.loads("{" + found)
    assert record["heatmap"] == {"output": "age", "method": "class", "target": 3}
    assert (record["outputs"], record["difference"]) == (["age", "heatmap", "gates"], 2e-6)


def test_a_single_value_has_no_predicted_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ages.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Ages(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, 8), nn.ReLU())\n"
        "        self.age, self.kind = nn.Linear(8, 1), nn.Linear(8, 3)\n"
        "    def forward(self, x):\n"
        "        z = self.features(x).mean((2, 3))\n"
        "        return {'age': self.age(z), 'kind': self.kind(z)}\n"
        "def ages(): return Ages()\n"
    )
    words = ["squeezecam", "export", "--model", f"{tmp_path / 'ages.py'}:ages", "--onnx", str(tmp_path / "a.onnx")]
    for output, said in (("age", "a single value"), ("kind", "its predicted class")):
        monkeypatch.setattr(sys, "argv", [*words, "--output", output, "--method", "class"])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (None, 0)
        assert f"heatmap: method 'class', of the output '{output}', {said}\n" in capsys.readouterr().out


def test_what_is_doubtful_about_the_heatmap_is_said_and_stands_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    path = tmp_path / "demo.onnx"

    def export(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["squeezecam", "export", "--model", "demo", "--onnx", str(path), *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (None, 0)

    export("--random", "--method", "published")
    said = capsys.readouterr().out
    assert "in doubt: random weights" in said
    assert "block not fitted: its gates select nothing" in said
    props = {prop.key: prop.value for prop in onnx.load(str(path)).metadata_props}
    assert props["squeezecam.method"] == "published"
    assert props["squeezecam.target"] == "None"
    assert "block not fitted" in props["squeezecam.status"]
    export("--method", "class", "--target", "3", "--json")
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
    assert {prop.key: prop.value for prop in onnx.load(str(path)).metadata_props}["squeezecam.target"] == "3"
