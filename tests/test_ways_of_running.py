"""Half precision, autocast, compilers and exporters. What takes long runs with SQUEEZECAM_SLOW=1."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from squeezecam import Squeeze

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import coverage_zoo as zoo
from conftest import leave_identity

slow = pytest.mark.skipif(not os.environ.get("SQUEEZECAM_SLOW"), reason="takes long: set SQUEEZECAM_SLOW=1")
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="onnx, onnxruntime and onnxscript are not installed",
)

NAMES = ("softmax at the end", "class token", "channels last", "frames in the batch")
BATCH = (({0: torch.export.Dim("batch")},),)  # one tuple for the arguments, one because they are variable
IMAGE = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))


def attached(name: str, apply: str = "observe", dtype: torch.dtype = torch.float32) -> tuple[Squeeze, Tensor]:
    """A fitted-looking Squeeze around one of the oddities, and inputs."""
    torch.manual_seed(0)
    model, example, _ = zoo.oddities()[name]()
    squeeze = squeezecam.attach(model.to(dtype).eval(), example.to(dtype), apply=apply)
    return leave_identity(squeeze), example.to(dtype)


def agree(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within ``tolerance`` of the largest value."""
    assert found.shape == expected.shape
    assert float((found.float() - expected.float()).abs().max()) <= tolerance * float(expected.float().abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """The model runs in half precision, the block and the map in float32; only digits are lost."""
    squeeze, x = attached(name, dtype=dtype)
    explained = squeeze.explain(x)
    with torch.no_grad():
        assert torch.equal(explained.output, squeeze.model(x))
    assert explained.output.dtype == dtype
    assert explained.gates.dtype == torch.float32
    assert explained.raw.dtype == torch.float32
    reference = squeezecam.attach(squeeze.model.float(), x.float())
    reference.blocks.load_state_dict(squeeze.blocks.state_dict())
    expected = reference.explain(x.float(), method=explained.method.partition(",")[0])
    agree(explained.gates, expected.gates, 5e-2)
    assert explained.heatmap.isfinite().all()


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name: str, apply: str) -> None:
    """Gates come from the block in float32 also where the features do not."""
    squeeze, x = attached(name, apply)
    expected = squeeze.explain(x)
    with torch.autocast("cpu", torch.bfloat16):
        explained = squeeze.explain(x)
        with torch.no_grad():
            plain = squeeze.model(x)
    if apply == "observe":
        assert torch.equal(explained.output, plain)
    assert explained.gates.dtype == torch.float32
    agree(explained.gates, expected.gates, 5e-2)


def test_inference_mode_and_frozen_weights() -> None:
    squeeze, x = attached("class token")
    for parameter in squeeze.parameters():
        parameter.requires_grad_(False)
    expected = squeeze.explain(x)
    with torch.inference_mode():
        assert torch.equal(squeeze.explain(x).heatmap, expected.heatmap)


def test_a_channels_last_memory_format_changes_nothing() -> None:
    squeeze, x = attached("softmax at the end")
    expected = squeeze.explain(x)
    squeeze.model.to(memory_format=torch.channels_last)
    agree(squeeze.explain(x.contiguous(memory_format=torch.channels_last)).heatmap, expected.heatmap, 1e-5)


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("name", NAMES)
def test_export_with_a_dynamic_batch(name: str, apply: str) -> None:
    squeeze, x = attached(name, apply)
    program = torch.export.export(squeeze.as_module("published").eval(), (x,), dynamic_shapes=BATCH, strict=False)
    more = torch.cat([x, x.flip(-1), x * 0.5])
    expected = squeeze.explain(more, method="published")
    with torch.no_grad():
        output, heatmap, gates = program.module()(more)
    agree(output, expected.output, 1e-5)
    agree(gates, expected.gates, 1e-5)
    agree(heatmap, expected.heatmap, 1e-4)


@slow
@pytest.mark.parametrize("method", ["published", "class"])
@pytest.mark.parametrize("name", NAMES)
def test_compile_as_one_graph(name: str, method: str) -> None:
    squeeze, x = attached(name)
    if method == "class" and squeeze.head() is None:
        pytest.skip("no classification layer of a known form")
    expected = squeeze.explain(x, method=method)
    compiled = torch.compile(squeeze.as_module(method).eval(), fullgraph=True)
    with torch.no_grad():
        output, heatmap, gates = compiled(x)
    agree(output, expected.output, 1e-5)
    agree(gates, expected.gates, 1e-5)
    agree(heatmap, expected.heatmap, 1e-4)


@slow
@onnx
@pytest.mark.parametrize("name", ["softmax at the end", "class token", "channels last"])
def test_onnx_with_a_dynamic_batch_agrees_with_onnxruntime(name: str, tmp_path: Path) -> None:
    import onnxruntime

    squeeze, x = attached(name)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        squeeze.as_module("published").eval(), (x,), path, dynamo=True, verbose=False,
        input_names=["image"], output_names=["output", "heatmap", "gates"],
        dynamic_shapes=BATCH,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 2, 5):
        more = torch.randn(batch, *x.shape[1:])
        expected = squeeze.explain(more, method="published")
        found = [torch.from_numpy(part) for part in session.run(None, {"image": more.numpy()})]
        for part, reference in zip(found, (expected.output, expected.heatmap, expected.gates), strict=True):
            agree(part, reference, 1e-4)


def test_wrapped_in_data_parallel_for_one_process() -> None:
    squeeze, _ = attached("softmax at the end")

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    assert squeezecam.get(Wrapped(squeeze)) is squeeze


@slow
def test_two_processes_train_the_same_block(tmp_path: Path) -> None:
    """DDP over gloo: both processes end with the same weights, which differ from those they began with."""
    torch.multiprocessing.spawn(_train, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(first["blocks.map.expand.weight"].abs().max()) > 0


def _train(rank: int, store: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    squeeze = squeezecam.attach(zoo.MaxPoolHead(), IMAGE, apply="gate")
    parallel = nn.parallel.DistributedDataParallel(squeeze)
    optimiser = torch.optim.SGD(parallel.parameters(), 0.1)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        x = torch.randn(4, 3, 32, 24, generator=generator)
        loss = parallel(x).logsumexp(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(squeeze.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
