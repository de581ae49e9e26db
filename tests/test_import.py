"""``import squeezecam`` is light."""

import subprocess
import sys

import pytest

import squeezecam

SCRIPT = """
import sys
import torch
before = set(sys.modules)
import squeezecam
squeezecam.attach
new = sorted(set(sys.modules) - before)
print("\\n".join(new))
"""

HEAVY = ("PIL", "matplotlib", "timm", "torchvision", "transformers", "pandas", "scipy", "sklearn", "cv2", "av",
         "safetensors", "rich", "typer", "pytorch_grad_cam", "captum")  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split()


def test_it_loads_torch_and_nothing_heavier(loaded):
    assert "squeezecam" in loaded
    tops = {name.split(".")[0] for name in loaded}
    assert not tops & set(HEAVY)
    foreign = tops - {"squeezecam", "torch"} - set(sys.stdlib_module_names)
    assert not foreign


def test_torch_is_loaded_at_the_first_use():
    script = (
        "import sys, squeezecam; assert 'torch' not in sys.modules; squeezecam.attach; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_attach_is_the_function_whatever_was_imported_before():
    script = "import squeezecam.attach, squeezecam.adapter, squeezecam; assert callable(squeezecam.attach)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_it_loads_only_its_core(loaded):
    own = {name.removeprefix("squeezecam.").split(".")[0] for name in loaded if name.startswith("squeezecam.")}
    for room in (
        "render",
        "data",
        "metrics",
        "models",
        "fit",
        "commands",
        "cli",
        "explanation",
        "adapter",
        "plain",
        "files",
    ):
        assert room not in own
    assert len(loaded) < 40


@pytest.mark.parametrize("name", squeezecam.__all__)
def test_every_public_name_is_there(name):
    assert getattr(squeezecam, name) is not None


def test_rooms_that_load_when_used():
    assert squeezecam.vector.TOP_10_PERCENT == 1.282
    assert squeezecam.heatmap.UPSAMPLING[0] == "bicubic"
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        squeezecam.explian  # noqa: B018


def test_errors_have_one_family():
    kinds = [getattr(squeezecam, name) for name in squeezecam.__all__ if name.endswith("Error")]
    assert len(kinds) >= 5
    assert all(issubclass(kind, squeezecam.SqueezeError) for kind in kinds)
