"""What a heatmap costs: ``explain`` against the plain forward pass and against Grad-CAM, in time and in memory.

    python benchmarks/overhead.py [--rounds 15] [--threads 1] [--models resnet50,mobilenet_v2,demo] [--json]

Time: the three are run in turn, round after round, on the same model and batch, and compared within each round, so that
what slows the machine down slows all of them. Printed are ratios of medians and the middle half of the ratios within
rounds, of the time on the clock and, for one thread, of the time on the processor: on a machine that is busy with other
work, the second says what the work itself takes; on an idle one they are the same.

Memory: each of the three runs in a process of its own, after a warm-up on a batch of one. Two figures, since they
answer two questions: ``peak`` is the most memory that tensors held at once beyond what was there before, counted at the
allocator of PyTorch; ``resident`` is how far the process's resident memory rose, as the operating system saw it (pages
that the warm-up left behind are used again, so small differences are lost in it).
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

WAYS = ("forward", "explain", "grad-cam")
LIMITS = {"time": 1.05, "memory": 1.1, "grad-cam": 2.5}


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


def ways(name: str, method: str | None) -> tuple[dict[str, Callable[[Any], Any]], Any]:
    """The three ways as functions of a batch, and a batch. Grad-CAM as its users write it, on the same layer."""
    import torch

    import squeezecam
    from squeezecam.models.torchvision_guard import require

    torch.manual_seed(0)
    model, shape, layer = MODELS[name]()
    model = model.eval()
    batch = torch.randn(shape)
    squeeze = squeezecam.attach(model, batch[:2])
    for stream in squeeze.places:  # any weights: the work is that of a fitted block
        torch.nn.init.normal_(squeeze.block(stream).expand.weight, std=0.01)
    targets = [0] * shape[0]

    def forward(x: Any) -> Any:
        with torch.inference_mode():
            return model(x)

    def explain(x: Any) -> Any:
        with torch.inference_mode():
            return squeeze.explain(x, method=method).heatmap

    found: dict[str, Callable[[Any], Any]] = {"forward": forward, "explain": explain}
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


def measure_time(name: str, rounds: int, method: str | None) -> dict[str, Any]:
    """Seconds of every round and way, in turn, the order changing from round to round, and their ratios."""
    found, batch = ways(name, method)
    for run in found.values():
        run(batch)
        run(batch)
    clock: dict[str, list[float]] = {way: [] for way in found}
    processor: dict[str, list[float]] = {way: [] for way in found}
    for turn in range(rounds):
        order = list(found)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for way in order:
            started, used = time.perf_counter(), time.process_time()
            found[way](batch)
            clock[way].append(time.perf_counter() - started)
            processor[way].append(time.process_time() - used)
    return {
        "batch": list(batch.shape),
        "rounds": rounds,
        "clock": ratios(clock),
        "processor": ratios(processor),
    }


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


def measure_memory(name: str, way: str, method: str | None) -> dict[str, float]:
    """Peak memory of one way beyond what was there before, in MiB: of tensors, and resident."""
    import torch

    found, batch = ways(name, method)
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
    lines = [f"{name}, batch {shape}, {found['threads']} thread(s), {found['rounds']} rounds"]
    for kind in ("clock", "processor") if found["threads"] == 1 else ("clock",):
        medians = ", ".join(f"{way} {ms:.1f} ms" for way, ms in found[kind]["milliseconds"].items())
        lines.append(f"  time on the {kind}, medians: {medians}")
        for key, r in found[kind].items():
            if key != "milliseconds":
                lines.append(
                    f"    {key}: {r['medians']:.3f} (middle half of the rounds {r['low']:.3f} to {r['high']:.3f}; "
                    f"fastest runs {r['fastest']:.3f})"
                )
    for key, title in (("peak", "tensors held at once"), ("resident", "rise of resident memory")):
        if found.get("memory"):
            each = {way: values[key] for way, values in found["memory"].items() if values}
            share = each["explain"] / max(each["forward"], 1e-9)
            listed = ", ".join(f"{way} {mib:.1f} MiB" for way, mib in each.items())
            lines.append(f"  {title}: {listed}; explain / forward {share:.3f}")
    return "\n".join(lines)


def verdicts(found: dict[str, Any]) -> dict[str, bool]:
    """What was promised for ResNet-50, and whether it held this time."""
    times = found["processor" if found["threads"] == 1 else "clock"]
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
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    import torch

    if given.memory_of:
        torch.set_num_threads(1)
        print(json.dumps(measure_memory(*given.memory_of, given.method)))
        return
    results: dict[str, Any] = {}
    for name in given.models.split(","):
        if name not in MODELS:
            parser.error(f"there is no model {name}; there are {', '.join(MODELS)}")
        for threads in map(int, given.threads.split(",")):
            key = name if given.threads == str(threads) else f"{name}, {threads} threads"
            torch.set_num_threads(threads)
            try:
                found = {"threads": threads, **measure_time(name, given.rounds, given.method)}
                if not given.no_memory:
                    extra = ["--method", given.method] if given.method else []
                    found["memory"] = {way: in_process(["--memory-of", name, way, *extra]) for way in WAYS}
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
