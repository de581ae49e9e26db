"""``squeezecam export``: model, heatmap and gates as one ONNX file, checked against the model itself."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Sequence
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
from squeezecam.plain import Plain
from squeezecam.status import notice_of

MAP, GATES = "heatmap", "gates"
"""What stands in the file beside the model's own outputs."""
TOLERANCE, ROUNDING = 1e-3, 16.0
"""Largest difference between file and model that is accepted, as a share of each output's largest value: 0.1 %, or so
many rounding steps of the model's number format where those are coarser (half precision: 1.6 %, bfloat16: 13 %).
"""
SMALLEST = 1e-6
"""Largest value below which an output counts as zero: there is no share of nothing."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the ONNX file.
        inputs: names of its inputs.
        outputs: names of its outputs: the model's own, ``heatmap`` and ``gates``.
        difference: largest difference to the model itself on a batch of another size, relative to each output's largest
            value.
        explained: name of the model's output that the heatmap explains.
        method: of the heatmap.
        target: class that the heatmap explains; None is the predicted one.
        status: what is doubtful about every heatmap; "ok" where nothing is. It stands in the file too.

    """

    path: Path
    inputs: list[str]
    outputs: list[str]
    difference: float
    explained: str
    method: str
    target: int | None
    status: str


class _Flat(nn.Module):
    """Inputs by position and outputs as one tuple, which is all that the exporter names reliably."""

    def __init__(self, module: Plain, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        result = self.module(**dict(zip(self.names, given, strict=True))) if self.names else self.module(*given)
        return tuple(tensor for _, tensor in tree.leaves(result))


def export_onnx(
    squeeze: Squeeze,
    example: Any,
    path: Path,
    method: str | None,
    target: int | None,
    output: str | None = None,
    cautions: Sequence[str] = (),
) -> Exported:
    """Export model, heatmap and gates with a dynamic batch, and run the file once through onnxruntime.

    Args:
        squeeze: the model and its block.
        example: what the model takes, tensors by position or by keyword.
        path: the file to write; there is none where the export fails.
        method: of the heatmap; None is the default one of ``explain``.
        target: class that the heatmap explains; None is the predicted one.
        output: name of the output that the heatmap explains; None is the default one.
        cautions: what has to be said of the model itself.

    Raises:
        ModelError: a package is missing, the model cannot be exported, or the file does not give what the model gives.
        InputError: an unknown method, output or class.

    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "export")
    args, kwargs = tree.as_call(example)
    if (args and kwargs) or any(not isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        raise ModelError("only models whose inputs are tensors, all by position or all by keyword, can be exported")
    given = tuple(args) or tuple(kwargs.values())
    inputs = list(kwargs) or [f"input{i or ''}" for i in range(len(given))]
    plain = Plain(squeeze, method, target, output).eval()
    with torch.no_grad():
        returned = plain(*args, **kwargs)[0]
    outputs = [*_names(squeeze, returned, inputs), MAP, GATES]
    module = _Flat(plain, list(kwargs)).eval()
    larger = tuple(torch.cat([tensor, tensor[:1].flip(-1)]) for tensor in given)
    expected = _expected(module, larger, outputs)
    batch = {0: torch.export.Dim("batch", min=1)}
    with atomic_path(path) as temporary:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module, given, str(temporary), dynamo=True, verbose=False, external_data=False,
                    input_names=inputs, output_names=outputs, dynamic_shapes=((*(batch for _ in given),),),
                )  # fmt: skip
        except Exception as error:  # the exporter raises whatever the model's operations make it raise
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ModelError(f"the model cannot be exported to ONNX: {reason}") from error
        difference = _checked(module, larger, expected, temporary, inputs)
        status = "; ".join([*cautions, *filter(None, map(notice_of, plain.doubts))]) or "ok"
        _describe(temporary, output=plain.output, method=plain.method, target=target, status=status)
    return Exported(path, inputs, outputs, difference, plain.output, plain.method, target, status)


def _describe(path: Path, **about: Any) -> None:
    """What the heatmap is, in the file: whoever gets it has nothing else."""
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {f"squeezecam.{key}": str(value) for key, value in about.items()})
    onnx.save(model, str(path))


def _names(squeeze: Squeeze, returned: Any, inputs: list[str]) -> list[str]:
    """Names in the file of the tensors that the model returns: its own, none of them given twice."""
    known = {path: name for name, path in squeeze.outputs.items()}
    taken, names = {*inputs, MAP, GATES}, []
    for path, _ in tree.leaves(returned):
        name = known.get(path, tree.show(path))
        name = f"output{name}" if name[0].isdigit() else name  # those of a tuple are named by their place
        while name in taken:
            name = f"model_{name}"
        taken.add(name)
        names.append(name)
    return names


def _expected(module: nn.Module, larger: tuple[Tensor, ...], outputs: list[str]) -> dict[str, Tensor]:
    """What the model gives on a batch one larger than the example, so that a batch size that was baked in shows.

    Raises:
        ModelError: NaN or infinity, which no file can be compared with.

    """
    expected = dict(zip(outputs, _run(module, larger), strict=True))
    for name, values in expected.items():
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"the model itself gives NaN or infinity for '{name}' on the example, so that the file cannot be "
                "checked; nothing was written: look at its weights and its preprocessing"
            )
    return expected


def _checked(
    module: nn.Module, larger: tuple[Tensor, ...], expected: dict[str, Tensor], path: Path, inputs: list[str]
) -> float:
    """The largest difference between the file and what is expected of it.

    Raises:
        ModelError: it is too large, or NaN; or onnxruntime cannot run the file.

    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        fed = {name: tensor.cpu().numpy() for name, tensor in zip(inputs, larger, strict=True)}
        found = [torch.from_numpy(part) for part in session.run(list(expected), fed)]
    except Exception as error:  # the runtime's own kinds, which share no base; TypeError where NumPy has no such format
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"onnxruntime cannot run the exported file, so that it cannot be checked; nothing was written: {reason} "
            "(a model in bfloat16 runs once it is in float32: model.float())"
        ) from error
    differences = {name: _relative(one, expected[name]) for name, one in zip(expected, found, strict=True)}
    worst = max(differences, key=lambda name: differences[name])
    tolerance = _tolerance(module)
    if differences[worst] <= tolerance:
        return differences[worst]
    amount = f"{differences[worst]:.1e} of its largest value" if math.isfinite(differences[worst]) else "NaN"
    again = max(_relative(*pair) for pair in zip(_run(module, larger), expected.values(), strict=True))
    if again > tolerance:
        reason = (
            "The model gives another result each time for the same input: take what it draws at random out of its "
            "forward pass (a dropout that is on in evaluation too, added noise)"
        )
    else:
        reason = (
            "The usual causes are layers that draw at random (dropout that stays in training mode), and operations "
            "that are exported with the example's numbers in them: try another --method, or the model alone"
        )
    raise ModelError(
        f"the ONNX file does not give what the model gives: '{worst}' differs by {amount}, accepted is "
        f"{tolerance:.1e}; nothing was written. {reason}"
    )


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [tensor.detach().cpu() for tensor in module(*inputs)]


def _tolerance(module: nn.Module) -> float:
    steps = [torch.finfo(p.dtype).eps for p in module.parameters() if p.is_floating_point()]
    return max(TOLERANCE, ROUNDING * max(steps, default=0.0))


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value; infinity where a value is NaN or the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    expected = expected.float()
    difference = float((found.float() - expected).abs().amax() / expected.abs().amax().clamp_min(SMALLEST))
    return difference if math.isfinite(difference) else math.inf  # max() would drop a NaN
