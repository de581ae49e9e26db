"""What each of our maps costs, in plain forward passes of the same model: alternating rounds, processor time.

python benchmarks/cost_of_methods.py --model models.py:mobilenet_v2 --adapter m.squeeze.safetensors --size 224
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from squeezecam import load
from squeezecam.memory import keep_freed
from squeezecam.methods import usable
from squeezecam.models.resolve import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep-freed", action="store_true", help="keep freed memory, as the commands do")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.keep_freed and not keep_freed():
        raise SystemExit("the C library here does not keep memory")
    model = load_model(arguments.model).model
    x = torch.rand(arguments.batch, 3, arguments.size, arguments.size) * 2 - 1
    squeeze = load(arguments.adapter, model, x[:1])

    def forward() -> None:
        with torch.inference_mode():
            model(x)

    def explained(method: str) -> Callable[[], object]:
        return lambda: squeeze.explain(x, method=method)

    work: dict[str, Callable[[], object]] = {"forward": forward, **{m: explained(m) for m in usable(squeeze)}}
    for one in work.values():
        one()
    rounds: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        seconds = {}
        for name in list(work) if number % 2 else reversed(list(work)):
            started = time.process_time()
            work[name]()
            seconds[name] = time.process_time() - started
        rounds.append(seconds)
    for name in work:
        ratio = statistics.median(seconds[name] / seconds["forward"] for seconds in rounds)
        print(f"{name:14} {ratio:.3f} forward passes")


if __name__ == "__main__":
    main()
