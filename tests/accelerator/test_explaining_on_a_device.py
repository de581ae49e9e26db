"""Explaining on an accelerator: what comes out is what the CPU gives, for every method, precision and memory format."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import squeezecam
from conftest import ConvHead, ConvNet, leave_identity
from devices import agree, correlation, demo_on, demo_pictures, explained_alike, lies_on, moved, quietly_fitted
from patches import patches
from squeezecam import InputError, vector
from test_locator import Net as TwoStages

slow = pytest.mark.skipif(not os.environ.get("SQUEEZECAM_SLOW"), reason="takes long: set SQUEEZECAM_SLOW=1")

CPU = torch.device("cpu")
METHODS = ("published", "contribution", "class", "refined", "focus")
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def adapters(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made on the CPU: of the demo network, and of a small one whose finer map ``focus`` looks at, each once with
    refiner and locator and once without.
    """
    folder = tmp_path_factory.mktemp("adapters")
    pictures = demo_pictures(48, "train")
    made = {
        "demo": (squeezecam.attach(demo_on(CPU), pictures[:2]), list(pictures.split(12))),
        "stages": (squeezecam.attach(TwoStages(), patches(2)), list(patches(24).split(6))),
    }
    files = {}
    for name, (squeeze, batches) in made.items():
        quietly_fitted(squeeze, batches)
        squeeze.save(files.setdefault(f"{name}, plain", folder / f"{name}-plain.squeeze.safetensors"))
        squeeze.refine(batches, epochs=1, progress=False)
        squeeze.locate(batches, epochs=1, progress=False)
        squeeze.save(files.setdefault(name, folder / f"{name}.squeeze.safetensors"))
    return files


def loaded(adapters: dict[str, Path], name: str, device: torch.device, **options: object) -> squeezecam.Squeeze:
    model = demo_on(device) if name.startswith("demo") else TwoStages().to(device)
    return squeezecam.load(adapters[name], model, inputs_of(name, 2).to(device), **options)


def inputs_of(name: str, count: int) -> Tensor:
    return demo_pictures(count) if name.startswith("demo") else patches(count, seed=5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["demo", "stages"])
def test_every_method_gives_the_maps_of_the_cpu(
    adapters: dict[str, Path], device: torch.device, name: str, method: str
) -> None:
    x = inputs_of(name, 8)
    explained = loaded(adapters, name, device).explain(x.to(device), method=method)
    lies_on([explained.heatmap, explained.raw, explained.gates, explained.kept, explained.output], device)
    explained_alike(explained, loaded(adapters, name, CPU).explain(x, method=method))


@pytest.mark.parametrize("name", ["demo, plain", "stages, plain"])
def test_focus_without_a_locator_gives_the_maps_of_the_cpu(
    adapters: dict[str, Path], device: torch.device, name: str
) -> None:
    x = inputs_of(name, 8)
    found = loaded(adapters, name, device).explain(x.to(device), method="focus")
    explained_alike(found, loaded(adapters, name, CPU).explain(x, method="focus"))


@pytest.mark.parametrize("options", [
    {"keep": "quantile:0.2"}, {"keep": "topk:5"}, {"keep": "all"}, {"score": "class"}, {"aggregate": "energy"},
    {"aggregate": "contrast"}, {"aggregate": "peaks"}, {"upsample": "spline"}, {"upsample": "nearest"}, {"size": 17},
    {"target": 3}, {"target": [[1, 2]] * 4}, pytest.param({"target": torch.tensor([1, 2, 0, 4])}, id="target=tensor"),
    pytest.param({"target": lambda output: output.argmin(1)}, id="target=function"),
], ids=str)  # fmt: skip
def test_options_of_explain_work_there(
    adapters: dict[str, Path], device: torch.device, options: dict[str, object]
) -> None:
    x, method = inputs_of("demo", 4), "class" if "target" in options else "published"
    found = loaded(adapters, "demo", device).explain(x.to(device), method=method, **options)
    explained_alike(found, loaded(adapters, "demo", CPU).explain(x, method=method, **options))


@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_the_path_is_what_it_is_said_to_be(adapters: dict[str, Path], device: torch.device, apply: str) -> None:
    x = inputs_of("demo", 4).to(device)
    squeeze = loaded(adapters, "demo", device, apply=apply)
    with torch.no_grad():
        plain = squeeze.model(x)
        output = squeeze(x)
    assert torch.equal(output, plain) == (apply == "observe")
    assert torch.equal(squeeze.explain(x).output, output)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_explained_alike_alone_and_in_a_batch(
    adapters: dict[str, Path], device: torch.device, method: str
) -> None:
    squeeze, x = loaded(adapters, "demo", device), inputs_of("demo", 5).to(device)
    together = squeeze.explain(x, method=method)
    for i in range(len(x)):
        explained_alike(squeeze.explain(x[i : i + 1], method=method), together[i])


def test_interventions_work_there(adapters: dict[str, Path], device: torch.device) -> None:
    x = inputs_of("demo", 4)
    channels = torch.arange(192) % 3 == 0  # on the CPU

    def dropped(squeeze: squeezecam.Squeeze, inputs: Tensor) -> Tensor:
        return squeeze.predict(inputs, lambda stream, seen: vector.intervene(torch.ones_like(seen.gates), channels))

    found = dropped(loaded(adapters, "demo", device), x.to(device))
    agree(found, dropped(loaded(adapters, "demo", CPU), x))


# --- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", METHODS)
def test_autocast_gives_finite_maps_close_to_float32(
    adapters: dict[str, Path], device: torch.device, method: str, dtype: torch.dtype
) -> None:
    squeeze, x = loaded(adapters, "demo", device), inputs_of("demo", 4).to(device)
    expected = squeeze.explain(x, method=method, target=3)
    with torch.autocast(device.type, dtype):
        found = squeeze.explain(x, method=method, target=3)
    assert found.gates.dtype == torch.float32
    assert bool(found.heatmap.isfinite().all())
    agree(found.gates, expected.gates, 5e-3)
    assert correlation(found.heatmap, expected.heatmap) > 0.95


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_half_precision_is_explained(
    adapters: dict[str, Path], device: torch.device, method: str, dtype: torch.dtype
) -> None:
    x = inputs_of("demo", 4).to(device)
    squeeze = squeezecam.load(adapters["demo"], demo_on(device).to(dtype), x[:2].to(dtype))
    found = squeeze.explain(x.to(dtype), method=method, target=3)
    expected = loaded(adapters, "demo", device).explain(x, method=method, target=3)
    assert found.output.dtype == dtype
    assert found.raw.dtype == torch.float32
    assert bool(found.heatmap.isfinite().all())
    assert correlation(found.heatmap, expected.heatmap) > 0.95


@pytest.mark.parametrize("relu", [True, False])
def test_a_convolutional_head_is_found_with_tf32_as_torch_has_it(
    device: torch.device, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.manual_seed(0)
    model = ConvHead(relu, channels=512, classes=100)
    x = torch.randn(16, 2, 26, 26)
    on_cpu = squeezecam.attach(model, x[:2])
    squeeze = squeezecam.attach(moved(model, device), x[:2].to(device))
    head, expected = squeeze.head(), on_cpu.head()
    assert head is not None
    assert expected is not None
    assert (head.kind, head.pool, head.activation) == (expected.kind, expected.pool, expected.activation)
    reports = [s.fit([x], progress=False) for s in (squeeze, on_cpu)]
    assert reports[0].mode == reports[1].mode


# --- ways of giving and taking --------------------------------------------------------------------------


def test_adapters_travel_between_devices(adapters: dict[str, Path], device: torch.device, tmp_path: Path) -> None:
    there = loaded(adapters, "stages", device)
    assert {p.device for p in there.parameters()} | {b.device for b in there.buffers()} == {device}
    path = tmp_path / "from-there.squeeze.safetensors"
    there.save(path)
    assert path.read_bytes() == adapters["stages"].read_bytes()


def test_a_squeeze_moves_as_a_module_does(adapters: dict[str, Path], device: torch.device) -> None:
    x = inputs_of("stages", 4)
    squeeze = loaded(adapters, "stages", CPU)
    expected = squeeze.explain(x, method="refined")
    explained_alike(squeeze.to(device).explain(x.to(device), method="refined"), expected)
    explained_alike(squeeze.to(CPU).explain(x, method="refined"), expected)


def test_inputs_on_another_device_are_named(adapters: dict[str, Path], device: torch.device) -> None:
    if device == CPU:
        pytest.skip("takes two devices")
    squeeze, x = loaded(adapters, "demo", device), inputs_of("demo", 2)
    with pytest.raises(InputError, match=f"model is on {device}, its inputs are on cpu"):
        squeeze.explain(x)
    with pytest.raises(InputError, match=f"model is on {device}, its inputs are on cpu"):
        squeezecam.attach(demo_on(device), x)


def test_pictures_are_drawn_from_there(adapters: dict[str, Path], device: torch.device, tmp_path: Path) -> None:
    explained = loaded(adapters, "demo", device).explain(inputs_of("demo", 2).to(device))
    written = explained.save(tmp_path)
    assert all(path.stat().st_size for path in written)
    assert explained.plot().width > 0
    assert len(explained.overlay()) == 2


def test_channels_last_changes_nothing(adapters: dict[str, Path], device: torch.device) -> None:
    squeeze, x = loaded(adapters, "demo", device), inputs_of("demo", 4).to(device)
    expected = squeeze.explain(x)
    squeeze.model.to(memory_format=torch.channels_last)
    explained_alike(squeeze.explain(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["demo", "stages"])
def test_as_module_gives_the_same(adapters: dict[str, Path], device: torch.device, name: str, method: str) -> None:
    squeeze, x = loaded(adapters, name, device), inputs_of(name, 4).to(device)
    expected = squeeze.explain(x, method=method)
    with torch.no_grad():
        output, heatmap, gates = squeeze.as_module(method).eval()(x)
    agree([output, heatmap, gates], [expected.output, expected.heatmap, expected.gates], 1e-5)


@slow
@pytest.mark.parametrize("method", ["published", "class", "focus"])
def test_compiled_as_one_graph(adapters: dict[str, Path], device: torch.device, method: str) -> None:
    squeeze, x = loaded(adapters, "demo", device), inputs_of("demo", 4).to(device)
    compiled = torch.compile(squeeze.as_module(method).eval(), fullgraph=True)
    with torch.no_grad():
        output, heatmap, gates = compiled(x)
    expected = squeeze.explain(x, method=method)
    agree([output, gates], [expected.output, expected.gates])
    assert correlation(heatmap, expected.heatmap) > 0.999  # a channel may lie near the threshold


def test_a_model_that_moves_its_own_inputs_is_served(device: torch.device) -> None:
    class Mover(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(self.fc.weight.device))

    torch.manual_seed(0)
    x = torch.rand(2, 2, 16, 16)  # on the CPU
    squeeze = leave_identity(squeezecam.attach(Mover().to(device).eval(), x))
    assert squeeze.explain(x, method="published").heatmap.device == device
