"""Where the program starts: light until a command runs, and an interrupt is one line from the first import on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

LIGHT = """
import sys
from squeezecam._entry import main
sys.argv = ["squeezecam", {argument!r}]
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
heavy = {{"torch", "numpy", "PIL", "safetensors"}} & set(sys.modules)
assert not heavy, heavy
"""

SLOW = """
import pathlib, time
pathlib.Path({mark!r}).touch()
time.sleep(60)
"""


@pytest.mark.parametrize("argument", ["--help", "--version", "fit"])
def test_nothing_heavy_is_loaded_before_a_command_works(argument: str) -> None:
    script = LIGHT.format(argument=argument)
    if argument == "fit":  # wrong usage, without its options
        script = script.replace("not left.code", "left.code == 2")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("package", ["torch", "typer"])
def test_control_c_while_a_library_is_imported_is_one_line(tmp_path: Path, package: str) -> None:
    mark = tmp_path / "importing"
    (tmp_path / f"{package}.py").write_text(SLOW.format(mark=str(mark)))
    paths = [str(tmp_path), *sys.path]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background, shells have it ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "squeezecam", "inspect"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heard, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    for _ in range(600):
        if mark.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
