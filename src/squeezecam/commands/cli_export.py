"""``squeezecam export``: its options, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from squeezecam.commands import options as o
from squeezecam.commands.console import command, wrote


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="file to write: output, heatmap and gates, any batch size")],
    model: o.Model = "demo",
    adapter: o.Adapter = None,
    method: Annotated[
        str | None, typer.Option("--method", help="published | contribution | class | refined | focus")
    ] = None,
    target: o.Target = None,
    output: o.Output = None,
    task: o.Task = None,
    apply: o.Apply = None,
    strict: o.Strict = False,
    at: o.At = None,
    weights: o.Weights = None,
    random: o.Random = False,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Model, heatmap and gates as one ONNX file, checked against the model by onnxruntime."""
    from squeezecam.commands.export import export_onnx
    from squeezecam.commands.pictures import example_of

    loaded, squeeze = o.open_squeeze(
        model,
        weights=weights,
        random=random,
        seed=seed,
        at=at,
        adapter=adapter,
        apply=apply,
        strict=strict,
        task=task,
        output=output,
    )
    found = export_onnx(squeeze, example_of(loaded), onnx, method, target, output, loaded.cautions())
    if as_json:
        record = {"command": command(), "onnx": str(found.path), "inputs": found.inputs, "outputs": found.outputs,
                  "heatmap": {"output": found.explained, "method": found.method, "target": found.target},
                  "difference": found.difference, "status": found.status}  # fmt: skip
        print(json.dumps(record, indent=2))
        return
    if found.explained in squeeze.single.keys() - squeeze.binary:
        wanted = "a single value"
    else:
        wanted = "its predicted class" if found.target is None else f"its class {found.target}"
    print(f"heatmap: method '{found.method}', of the output '{found.explained}', {wanted}")
    if found.status != "ok":
        print(f"in doubt: {found.status}")
    print(f"inputs: {', '.join(found.inputs)}; outputs: {', '.join(found.outputs)}; the first axis is the batch")
    print(f"onnxruntime agrees with the model to {found.difference:.1e} of each output's largest value")
    wrote([found.path])
