"""What a heatmap costs: ``explain`` against the plain forward pass and against Grad-CAM, in time and in memory.

    python benchmarks/overhead.py [--rounds 15] [--threads 1] [--models resnet50,mobilenet_v2,demo] [--json]
    python benchmarks/overhead.py --device cuda [--batch 64] [--precision bfloat16]

Time: the three are run in turn, round after round, on the same model and batch, and compared within each round, so that
what slows the machine down slows all of them. Printed are ratios of medians and the middle half of the ratios within
rounds, of the time on the clock and, for one thread, of the time on the processor: on a machine that is busy with other
work, the second says what the work itself takes; on an idle one they are the same.

Memory: each of the three runs in a process of its own, after a warm-up on a batch of one. Two figures, since they
answer two questions: ``peak`` is the most memory that tensors held at once beyond what was there before, counted at the
allocator of PyTorch; ``resident`` is how far the process's resident memory rose, as the operating system saw it (pages
that the warm-up left behind are used again, so small differences are lost in it).

On a GPU the clock is read once the device has finished what it was given, time on the processor says nothing, and the
one figure of memory is the peak that PyTorch's allocator gave out on the device beyond what was there before the call;
a call on the whole batch goes before, so that the workspaces of the libraries are there. With ``--precision``
forward and explain run under autocast, and Grad-CAM, whose library takes float32 alone, is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAYS = ("forward", "explain", "grad-cam")
LIMITS = {"time": 1.05, "memory": 1.1, "grad-cam": 2.5}
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Setup:
    """What the figures depend on beside the model: explain's method, where, how many pictures, in which precision."""

    method: str | None = None
    device: str = "cpu"
    batch: int = 8
    precision: str = "float32"

    @property
    def on_gpu(self) -> bool:
        """Whether work is handed to a device that finishes it later."""
        return self.device.startswith("cuda")

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        if self.on_gpu:
            import torch

            torch.cuda.synchronize(self.device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision that forward and explain run in."""
        import torch

        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, getattr(torch, self.precision))

    def arguments(self) -> list[str]:
        """The same for this script, called again."""
        given = ["--device", self.device, "--batch", str(self.batch), "--precision", self.precision]
        return [*given, "--method", self.method] if self.method else given


def material() -> Path:
    beside = Path(__file__).resolve().parents[1] / ".." / "shared" / "material"
    return Path(os.environ.get("SQUEEZECAM_MATERIAL") or beside).resolve()


class SkippedError(Exception):
    """A model that is not there, with the reason."""


def resnet50() -> tuple[Any, tuple[int, ...], str]:
    from squeezecam.errors import ModelError
    from squeezecam.models.torchvision_guard import require

    try:
        model = require("torchvision.models", "vision").resnet50(weights=None)
    except ModelError as error:
        raise SkippedError(str(error)) from None
    return model, (8, 3, 224, 224), "layer4"


def mobilenet_v2() -> tuple[Any, tuple[int, ...], str]:
    path = material() / "models.py"
    if not path.is_file():
        raise SkippedError(
            "the trained mobilenet_v2 is not there: set SQUEEZECAM_MATERIAL to the folder that holds models.py"
        )
    spec = importlib.util.spec_from_file_location("material_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mobilenet_v2()[0], (8, 3, 224, 224), "features"


def demo() -> tuple[Any, tuple[int, ...], str]:
    from squeezecam.models.demo import SIDE, demo_model

    return demo_model()[0], (8, 3, SIDE, SIDE), "features"


MODELS: dict[str, Callable[[], tuple[Any, tuple[int, ...], str]]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "demo": demo,
}


def ways(name: str, setup: Setup) -> tuple[dict[str, Callable[[Any], Any]], Any]:
    """The three ways as functions of a batch, and a batch. Grad-CAM as its users write it, on the same layer."""
    import torch

    import squeezecam
    from squeezecam.models.torchvision_guard import require

    torch.manual_seed(0)
    model, shape, layer = MODELS[name]()
    model = model.eval().to(setup.device)
    batch = torch.randn((setup.batch, *shape[1:])).to(setup.device)
    squeeze = squeezecam.attach(model, batch[:2])
    for stream in squeeze.places:  # any weights: the work is that of a fitted block
        torch.nn.init.normal_(squeeze.block(stream).expand.weight, std=0.01)
    targets = [0] * setup.batch

    def forward(x: Any) -> Any:
        with torch.inference_mode(), setup.autocast():
            return model(x)

    def explain(x: Any) -> Any:
        with torch.inference_mode(), setup.autocast():
            return squeeze.explain(x, method=setup.method).heatmap

    found: dict[str, Callable[[Any], Any]] = {"forward": forward, "explain": explain}
    if setup.precision != "float32":  # pytorch-grad-cam makes NumPy arrays of the activations as they come
        return found, batch
    try:
        library = require("pytorch_grad_cam", "peers")
        target = require("pytorch_grad_cam.utils.model_targets", "peers").ClassifierOutputTarget
    except squeezecam.ModelError as error:
        print(f"{name}: no comparison with Grad-CAM ({error})", file=sys.stderr)
        return found, batch

    def grad_cam(x: Any) -> Any:
        cam = library.GradCAM(model=model, target_layers=[model.get_submodule(layer)])
        try:
            return cam(input_tensor=x, targets=[target(t) for t in targets[: len(x)]])
        finally:
            cam.activations_and_grads.release()

    return {**found, "grad-cam": grad_cam}, batch


def measure_time(found: dict[str, Callable[[Any], Any]], batch: Any, rounds: int, setup: Setup) -> dict[str, Any]:
    """Seconds of every round and way, in turn, the order changing from round to round, and their ratios."""
    for run in found.values():
        run(batch)
        run(batch)
    clock: dict[str, list[float]] = {way: [] for way in found}
    processor: dict[str, list[float]] = {way: [] for way in found}
    for turn in range(rounds):
        order = list(found)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for way in order:
            setup.wait()
            started, used = time.perf_counter(), time.process_time()
            found[way](batch)
            setup.wait()
            clock[way].append(time.perf_counter() - started)
            processor[way].append(time.process_time() - used)
    times = {"clock": ratios(clock)} if setup.on_gpu else {"clock": ratios(clock), "processor": ratios(processor)}
    return {"batch": list(batch.shape), "rounds": rounds, **times}


def ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Median milliseconds per way, and the ratios between the ways."""
    result: dict[str, Any] = {"milliseconds": {way: statistics.median(v) * 1e3 for way, v in seconds.items()}}
    for first, second in (("explain", "forward"), ("grad-cam", "forward"), ("grad-cam", "explain")):
        if first in seconds:
            result[f"{first} / {second}"] = ratio(seconds[first], seconds[second])
    return result


def ratio(first: list[float], second: list[float]) -> dict[str, float]:
    """Ratio of the medians, of the fastest runs, and quartiles of the ratios within rounds."""
    each = sorted(a / b for a, b in zip(first, second, strict=True))
    low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0], each[0], each[0])
    return {
        "medians": statistics.median(first) / statistics.median(second),
        "fastest": min(first) / min(second),
        "low": low,
        "high": high,
    }


def measure_device_memory(found: dict[str, Callable[[Any], Any]], batch: Any, setup: Setup) -> dict[str, Any]:
    """Peak memory of each way on the device beyond what was there before, in MiB."""
    import torch

    peaks = {}
    for way, run in found.items():
        run(batch)
        setup.wait()
        torch.cuda.reset_peak_memory_stats(setup.device)
        before = torch.cuda.memory_allocated(setup.device)
        run(batch)
        setup.wait()
        peaks[way] = {"peak": (torch.cuda.max_memory_allocated(setup.device) - before) / 2**20}
    return peaks


def measure_memory(name: str, way: str, setup: Setup) -> dict[str, float]:
    """Peak memory of one way beyond what was there before, in MiB: of tensors, and resident."""
    import torch

    found, batch = ways(name, setup)
    if way not in found:
        return {}
    run = found[way]
    run(batch[:1])
    before = resident()
    seen = [before]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            seen.append(resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    run(batch)
    stop.set()
    watcher.join()
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(batch)
    return {
        "peak": peak_of(profile) / 2**20,
        "resident": max(seen) - before,
        "process": maximum,
    }


def peak_of(profile: Any) -> float:
    """Highest running sum of the allocations and releases that the profiler saw, in bytes."""
    total = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            highest = max(highest, total)
    return float(highest)


def resident() -> float:
    """Resident memory now, in MiB; the highest ever where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, rounds: int, setup: Setup, *, memory: bool) -> dict[str, Any]:
    """All figures of one model."""
    import torch

    found, batch = ways(name, setup)
    result: dict[str, Any] = measure_time(found, batch, rounds, setup)
    if setup.on_gpu:
        result["device"] = torch.cuda.get_device_name(setup.device)
    if setup.precision != "float32":
        result["precision"] = setup.precision
    if memory and setup.on_gpu:
        result["memory"] = measure_device_memory(found, batch, setup)
    elif memory:
        result["memory"] = {way: in_process(["--memory-of", name, way, *setup.arguments()]) for way in WAYS}
    return result


def in_process(arguments: list[str]) -> Any:
    """The JSON that this script prints when it is called with ``arguments``."""
    made = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(made.stderr.strip().splitlines()[-1] if made.stderr.strip() else "no message")
    return json.loads(made.stdout.splitlines()[-1])


def words(name: str, found: dict[str, Any]) -> str:
    """The figures of one model for people."""
    if "skipped" in found:
        return f"{name}: skipped, {found['skipped']}"
    shape = "x".join(map(str, found["batch"]))
    where = f"{found['threads']} thread(s)" if "device" not in found else found["device"]
    where += f", autocast to {found['precision']}" if "precision" in found else ""
    lines = [f"{name}, batch {shape}, {where}, {found['rounds']} rounds"]
    for kind in ("clock", "processor") if found["threads"] == 1 and "processor" in found else ("clock",):
        medians = ", ".join(f"{way} {ms:.1f} ms" for way, ms in found[kind]["milliseconds"].items())
        lines.append(f"  time on the {kind}, medians: {medians}")
        for key, r in found[kind].items():
            if key != "milliseconds":
                lines.append(
                    f"    {key}: {r['medians']:.3f} (middle half of the rounds {r['low']:.3f} to {r['high']:.3f}; "
                    f"fastest runs {r['fastest']:.3f})"
                )
    for key, title in (("peak", "tensors held at once"), ("resident", "rise of resident memory")):
        each = {way: values[key] for way, values in found.get("memory", {}).items() if key in values}
        if each:
            share = each["explain"] / max(each["forward"], 1e-9)
            listed = ", ".join(f"{way} {mib:.1f} MiB" for way, mib in each.items())
            lines.append(f"  {title}: {listed}; explain / forward {share:.3f}")
    return "\n".join(lines)


def verdicts(found: dict[str, Any]) -> dict[str, bool]:
    """What was promised for ResNet-50, and whether it held this time."""
    times = found["processor" if found["threads"] == 1 and "processor" in found else "clock"]
    result = {f"explain at most {LIMITS['time']} forwards": times["explain / forward"]["medians"] <= LIMITS["time"]}
    memory = found.get("memory") or {}
    if memory:
        share = memory["explain"]["peak"] / memory["forward"]["peak"]
        result[f"memory at most {LIMITS['memory']} times"] = share <= LIMITS["memory"]
    if "grad-cam / explain" in times:
        faster = times["grad-cam / explain"]["medians"]
        result[f"at least {LIMITS['grad-cam']} times faster than Grad-CAM"] = faster >= LIMITS["grad-cam"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"with commas: {', '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", default="1", help="with commas: 1,2")
    parser.add_argument("--method", default=None, help="published | contribution | class; default: explain's own")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--batch", type=int, default=8, help="pictures in a batch")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="other than float32: autocast")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    setup = Setup(given.method, given.device, given.batch, given.precision)
    import torch

    if given.memory_of:
        torch.set_num_threads(1)
        print(json.dumps(measure_memory(*given.memory_of, setup)))
        return
    results: dict[str, Any] = {}
    for name in given.models.split(","):
        if name not in MODELS:
            parser.error(f"there is no model {name}; there are {', '.join(MODELS)}")
        for threads in map(int, given.threads.split(",")):
            key = name if given.threads == str(threads) else f"{name}, {threads} threads"
            torch.set_num_threads(threads)
            try:
                found = {"threads": threads, **measure(name, given.rounds, setup, memory=not given.no_memory)}
                if name == "resnet50":
                    found["promised"] = verdicts(found)
            except SkippedError as reason:
                found = {"skipped": str(reason)}
            results[key] = found
            if not given.json:
                print(words(key, found), flush=True)
                for promise, held in found.get("promised", {}).items():
                    print(f"  {'held' if held else 'NOT HELD'}: {promise}")
    if given.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
