"""``squeezecam export``: model, heatmap and gates as one ONNX file, checked against the model itself."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.errors import ModelError
from squeezecam.files import atomic_path
from squeezecam.models.torchvision_guard import require
from squeezecam.module import Squeeze

NAMES = ("output", "heatmap", "gates")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the ONNX file.
        inputs: names of its inputs.
        outputs: names of its outputs.
        difference: largest difference to the model itself on a batch of another size, relative to each output's largest
            value.

    """

    path: Path
    inputs: list[str]
    outputs: list[str]
    difference: float


class _Positional(nn.Module):
    """Keyword inputs by position, which is all that the exporter names reliably."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *given: Tensor) -> Any:
        return self.module(**dict(zip(self.names, given, strict=True))) if self.names else self.module(*given)


def export_onnx(squeeze: Squeeze, example: Any, path: Path, method: str | None, target: int | None) -> Exported:
    """Export ``squeeze.as_module(method, target)`` with a dynamic batch and run it once through onnxruntime.

    Raises:
        ModelError: a package is missing, or the model cannot be exported.

    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "export")
    args, kwargs = tree.as_call(example)
    if (args and kwargs) or any(not isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        raise ModelError("only models whose inputs are tensors, all by position or all by keyword, can be exported")
    given = tuple(args) or tuple(kwargs.values())
    inputs = list(kwargs) or [f"input{i or ''}" for i in range(len(given))]
    module = _Positional(squeeze.as_module(method, target), list(kwargs)).eval()
    with torch.no_grad():
        values = [tensor for _, tensor in tree.leaves(module(*given))]
    outputs = [*(f"output{i}" for i in range(len(values) - 2)), *NAMES[1:]] if len(values) > 3 else list(NAMES)
    batch = {0: torch.export.Dim("batch", min=1)}
    with atomic_path(path) as temporary:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module, given, str(temporary), dynamo=True, verbose=False, external_data=False,
                    input_names=inputs, output_names=outputs, dynamic_shapes=(tuple(batch for _ in given),),
                )  # fmt: skip
        except Exception as error:  # the exporter raises whatever the model's operations make it raise
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ModelError(f"the model cannot be exported to ONNX: {reason}") from error
        difference = _difference(module, given, temporary, inputs)
    return Exported(path, inputs, outputs, difference)


def _difference(module: nn.Module, given: tuple[Tensor, ...], path: Path, inputs: list[str]) -> float:
    """On a batch one larger than the example, so that a batch size that was baked in shows."""
    import onnxruntime

    larger = [torch.cat([tensor, tensor[:1].flip(-1)]) for tensor in given]
    with torch.no_grad():
        expected = [tensor for _, tensor in tree.leaves(module(*larger))]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = {name: tensor.cpu().numpy() for name, tensor in zip(inputs, larger, strict=True)}
    found = [torch.from_numpy(part) for part in session.run(None, fed)]
    return max(_relative(a, b) for a, b in zip(found, expected, strict=True))


def _relative(found: Tensor, expected: Tensor) -> float:
    expected = expected.detach().cpu().float()
    return float((found.float() - expected).abs().amax() / expected.abs().amax().clamp_min(1e-12))
