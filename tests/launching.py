"""Functions in several processes over gloo, with the environment that a launcher gives them; forked, so that nobody has
to import torch again.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start(function: Callable[..., None], count: int, *args: Any) -> list[BaseProcess]:
    """``function(*args)`` in ``count`` new processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_child, args=(function, rank, count, port, args)) for rank in range(count)]
    for process in running:
        process.start()
    return running


def together(function: Callable[..., None], count: int, *args: Any, timeout: float = 120) -> None:
    """The same, to the end; fails where one of them fails."""
    running = start(function, count, *args)
    try:
        for process in running:
            process.join(timeout)
        assert [process.exitcode for process in running] == [0] * count
    finally:
        for process in running:
            process.kill()


def _child(function: Callable[..., None], rank: int, count: int, port: int, args: tuple[Any, ...]) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count), RANK=str(rank), LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(count),
    )  # fmt: skip
    from squeezecam import processes

    if "accelerate" in sys.modules:  # what the parent's was told holds for the parent
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        if count > 1:
            processes.join()
        function(*args)
        processes.leave()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
