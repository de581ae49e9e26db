"""``--model`` strings, factories, weights and label files: what they give, and the one line each error says."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from squeezecam.commands.options import open_squeeze
from squeezecam.errors import InputError, ModelError
from squeezecam.models import torchvision_guard, zoos
from squeezecam.models.factory import load_file
from squeezecam.models.feeding import feeding
from squeezecam.models.labels import as_labels, label_of, read_labels
from squeezecam.models.loaded import ClipPreprocess, DefaultPreprocess, LoadedModel, as_pixel_values
from squeezecam.models.resolve import load_model
from squeezecam.models.torchvision_guard import ensure_torchvision, require
from squeezecam.models.weights import load_weights

SOURCE = Path(__file__).resolve().parents[1] / "src"
MATERIAL = Path(os.environ.get("SQUEEZECAM_MATERIAL", SOURCE.parents[1] / "shared" / "material"))
PICTURE = Image.new("RGB", (80, 60), (200, 100, 50))


def needs(package: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.fixture
def factory_file(tmp_path: Path) -> Path:
    file = tmp_path / "nets.py"
    file.write_text(
        textwrap.dedent(
            """
            from pathlib import Path
            import torch
            from torch import nn

            LABELS = ["cat", "dog"]
            OTHER_LABELS = {"kind": ["a", "b"], "age": ["young", "old"]}
            READY = nn.Linear(2, 2)
            NUMBER = 3

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.conv = nn.Conv2d(3, 4, 3)
                    self.drop = nn.Dropout()
                    self.head = nn.Linear(4, 2)
                    self.home = str(Path(__file__).parent)
                def forward(self, x):
                    return self.head(self.drop(self.conv(x).mean((2, 3))))

            def squash(image):
                return torch.zeros(3, 32, 48) + image.width

            def bare(): return Net()
            def pair(): return Net(), squash
            def other(): return [Net(), None]
            def gray(): return nn.Sequential(nn.Conv2d(1, 2, 3))
            def sized():
                model = Net(); model.pretrained_cfg = {"input_size": (3, 96, 64)}; return model
            def broken(): return 1 / 0
            def leaving(): raise SystemExit("bye")
            def number(): return 3
            def triple(): return Net(), squash, 4
            def greedy(width, depth=2): return Net()
            def batched(): return Net(), lambda image: torch.zeros(1, 3, 8, 8)
            def flat(): return Net(), lambda image: torch.zeros(8, 8)
            def wordy(): return Net(), lambda image: "picture"
            def choosy(): return Net(), lambda image: image.no_such_thing
            def clip(): return Net(), lambda frames: torch.stack([torch.zeros(3, 8, 8) for _ in list(frames)], 1)
            def _hidden(): return Net()
            """
        )
    )
    return file


# --- the guard and optional packages ---------------------------------------------------------------------------------


def run(code: str, *folders: Path) -> str:
    path = os.pathsep.join(str(folder) for folder in (*folders, SOURCE))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_resolving_imports_no_library_and_the_guard_cures_one_error_once_it_was_met(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "half.py").write_text("")
    (package / "__init__.py").write_text(
        textwrap.dedent(
            """
            import builtins, torch
            from torchvision import half
            builtins.tries = getattr(builtins, "tries", 0) + 1
            if builtins.tries == 1:
                raise RuntimeError("compiled with different CUDA major versions")
            torch.library.register_fake("torchvision::nms")(lambda *a: None)
            torch.library.register_fake("torchvision::qnms")(lambda *a: None)
            """
        )
    )
    printed = run(
        """
        import builtins, sys, threading, torch
        import squeezecam.models.factory, squeezecam.models.resolve, squeezecam.models.zoos
        from squeezecam.models import torchvision_guard as guard
        print([name for name in ("timm", "torchvision", "transformers", "PIL") if name in sys.modules])
        try:
            guard.ensure_torchvision()
        except RuntimeError as error:
            print(error, hasattr(torch.ops.torchvision, "nms"))
        threads = [threading.Thread(target=guard.ensure_torchvision) for _ in range(4)]
        [t.start() for t in threads], [t.join() for t in threads]
        import torchvision
        guard.ensure_torchvision()
        print(builtins.tries, hasattr(torch.ops.torchvision, "nms"), torchvision.half.__name__ in sys.modules)
        """,
        tmp_path,
    )
    assert printed.splitlines() == ["[]", "compiled with different CUDA major versions False", "3 True True"]


def test_guard_does_nothing_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_guard, "_done", False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail("nothing may be imported"))
    ensure_torchvision()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("timm", "pytorch_grad_cam"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModelError, match=r"^timm is not installed: pip install 'squeezecam\[vision\]'$"):
        require("timm", "vision")
    with pytest.raises(ModelError, match=r"^grad-cam is not installed: pip install 'squeezecam\[peers\]'$"):
        require("pytorch_grad_cam", "peers")


def test_a_package_that_fails_is_no_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sc_broken_package.py").write_text("raise OSError('libcudart\\nis missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot be imported: OSError: libcudart is missing; reinstall"):
        require("sc_broken_package", "vision")


# --- factories -------------------------------------------------------------------------------------------------------


def test_factory_with_preprocessing(factory_file: Path) -> None:
    loaded = load_model(f"{factory_file}:pair")
    assert not loaded.model.training
    assert loaded.input_size == (3, 32, 48)
    assert loaded.preprocess(PICTURE).unique().item() == 80
    assert loaded.labels == ("cat", "dog")
    assert (loaded.name, loaded.source, loaded.clip) == ("pair", "nets.py:pair", False)
    assert loaded.model.home == str(factory_file.parent)
    batch = torch.rand(2, 3, 9, 9)
    assert loaded.make_inputs(batch) is batch


@pytest.mark.parametrize(
    ("given", "weights", "fed"),
    [
        (torch.float32, torch.float16, torch.float16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.uint8, torch.float16, torch.uint8),
    ],
)
def test_pictures_are_fed_in_the_number_format_of_the_models_weights(
    given: torch.dtype, weights: torch.dtype, fed: torch.dtype
) -> None:
    loaded = LoadedModel(nn.Linear(2, 2).to(weights), lambda picture: torch.zeros(1), None, "m", (), "")
    assert feeding(loaded)(torch.ones(1, 2, dtype=given)).dtype == fed
    by_name = replace(loaded, make_inputs=as_pixel_values)
    assert feeding(by_name)(torch.ones(1, 2, dtype=given))["pixel_values"].dtype == fed


def test_a_model_of_two_formats_gets_what_the_preprocessing_gives() -> None:
    model = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2))
    batch = torch.ones(1, 2)
    assert feeding(LoadedModel(model, lambda picture: batch, None, "m", (), ""))(batch) is batch


def test_a_model_in_half_precision_is_explained_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    layers = nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)\n"
        "    return nn.Sequential(*layers).eval().half()\n"
    )
    loaded, squeeze = open_squeeze(f"{tmp_path / 'half.py'}:net")
    explanation = squeeze.explain(loaded.make_inputs(loaded.preprocess(PICTURE)[None]))
    assert explanation.output.dtype == torch.float16
    assert bool(explanation.heatmap.isfinite().all())


def test_a_model_of_two_inputs_is_refused_and_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "from torch import nn\n"
        "class Two(nn.Module):\n"
        "    def forward(self, picture, age, *more, scale=1, **rest):\n"
        "        return picture\n"
        "class One(nn.Module):\n"
        "    def forward(self, picture, age=None, **rest):\n"
        "        return picture\n"
    )
    with pytest.raises(ModelError, match=r"Two takes 2 inputs \(picture, age\), .*pictures only.*squeezecam.attach"):
        load_model(f"{tmp_path / 'two.py'}:Two")
    load_model(f"{tmp_path / 'two.py'}:One")


def test_factory_without_preprocessing_gets_the_documented_one_and_says_so(factory_file: Path) -> None:
    loaded = load_model(f"{factory_file}:bare")
    assert loaded.input_size == (3, 224, 224)
    assert "assumed: RGB, squashed to 224x224" in loaded.source
    expected = (torch.tensor([200, 100, 50]) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(loaded.preprocess(PICTURE)[:, 100, 100], expected)
    assert load_model(f"{factory_file}:sized").input_size == (3, 96, 64)
    gray = load_model(f"{factory_file}:gray")
    assert gray.input_size == (1, 224, 224)
    assert "gray" in gray.source


def test_default_preprocessing_keeps_rows_and_columns_apart() -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 40, 10))
    values = DefaultPreprocess((10, 30))(image)
    assert values.shape == (3, 10, 30)
    assert values[:, :4].min() > 2
    assert values[:, 6:].max() < -1.7


def test_labels_of_one_factory_among_several(factory_file: Path) -> None:
    assert load_model(f"{factory_file}:other").labels == {"kind": ("a", "b"), "age": ("young", "old")}


def test_class_and_ready_model_are_factories_too(factory_file: Path) -> None:
    assert type(load_model(f"{factory_file}:Net").model).__name__ == "Net"
    assert isinstance(load_model(f"{factory_file}:READY").model, nn.Linear)


def test_preprocessing_of_clips(factory_file: Path) -> None:
    loaded = load_model(f"{factory_file}:clip")
    assert loaded.clip
    assert loaded.input_size == (3, 16, 8, 8)


def test_module_path(factory_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(factory_file.parent))
    try:
        assert load_model("nets:pair").input_size == (3, 32, 48)
    finally:
        sys.modules.pop("nets", None)


def test_file_is_a_module_of_its_own_whose_classes_pickle(factory_file: Path) -> None:
    before = set(sys.modules)
    model = load_model(f"{factory_file}:bare").model
    assert "nets" not in set(sys.modules) - before
    copy = pickle.loads(pickle.dumps(model))
    assert type(copy) is type(model)
    assert load_file(factory_file) is load_file(factory_file)
    assert not (factory_file.parent / "__pycache__").exists()
    factory_file.write_text(factory_file.read_text().replace("nn.Linear(4, 2)", "nn.Linear(4, 7)"))
    assert load_model(f"{factory_file}:bare").model.head.out_features == 7
    assert type(pickle.loads(pickle.dumps(model))) is type(model)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nope", r"nets.py has no 'nope'; it offers bare, pair, other, gray, .*, and 2 more$"),
        ("", r"name a factory; it offers bare"),
        ("broken", r"nets.py:broken failed: ZeroDivisionError: division by zero \(line \d+\)$"),
        ("leaving", r"nets.py:leaving failed: SystemExit: bye"),
        ("number", r"nets.py:number returned int; a torch.nn.Module, or \(model, preprocess\), is expected$"),
        ("triple", r"returned tuple of 3 \(Net, function, int\)"),
        ("greedy", r"nets.py:greedy needs arguments \(width\); a factory takes none$"),
        ("NUMBER", r"nets.py:NUMBER is of type int, not a function"),
        ("batched", r"preprocessing of batched gives a tensor \(1, 3, 8, 8\); one without batch axis"),
        ("flat", r"preprocessing of flat gives a tensor \(8, 8\)"),
        ("wordy", r"preprocessing of wordy gives str; a torch.Tensor"),
        ("choosy", r"preprocessing of choosy fails on a 320x240 RGB picture: AttributeError: "),
    ],
)
def test_each_fault_of_a_factory_is_one_line(factory_file: Path, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(f"{factory_file}:{factory}")
    assert "\n" not in str(caught.value)
    assert "_hidden" not in str(caught.value)


def test_faults_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.py cannot be read: No such file"):
        load_model(f"{tmp_path}/no.py:f")
    file = tmp_path / "bad.py"
    file.write_text("def f(:\n")
    with pytest.raises(ModelError, match=r"bad.py failed while it was read: SyntaxError: invalid syntax"):
        load_model(f"{file}:f")
    (tmp_path / "sc_neighbour.py").write_text("")
    file.write_text("import sc_neighbour\n")
    with pytest.raises(ModelError, match=r"No module named 'sc_neighbour' \(line 1\); it lies beside .*PYTHONPATH="):
        load_model(f"{file}:f")
    file.write_text("x = 1\n")
    with pytest.raises(ModelError, match="it has no function that can be called without arguments"):
        load_model(str(file))


# --- strings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            "resnet50",
            {},
            "'resnet50' is not understood; expected is demo, timm:NAME, .* timm:resnet50 or torchvision:resnet50",
        ),
        ("", {}, "'' is not understood"),
        ("timm:", {}, "lacks a name after the colon"),
        ("sc_no_such_module:f", {}, "'sc_no_such_module' cannot be imported: .*PYTHONPATH=."),
        ("demo", {"device": "cuda:99"}, "device 'cuda:99' cannot be used .*try --device cpu"),
        ("demo", {"device": "abacus"}, "device 'abacus' cannot be used"),
        ("demo", {"weights": "w.pt", "random": True}, "--weights FILE and --random contradict"),
        ("hf:./sc_no_such_folder", {}, "not a folder with a config.json"),
    ],
)
def test_each_wrong_string_is_one_line(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec, **options)
    assert "\n" not in str(caught.value)


def test_random_says_nothing_for_a_factory(factory_file: Path) -> None:
    with pytest.raises(ModelError, match="the factory itself decides"):
        load_model(f"{factory_file}:bare", random=True)


def test_demo_with_random_weights() -> None:
    pytest.importorskip("squeezecam.models.demo")
    loaded = load_model("demo", random=True)
    output = loaded.model(loaded.make_inputs(loaded.preprocess(PICTURE)[None]))
    assert output.shape == (1, 10)
    assert loaded.labels is None
    assert "random" in loaded.source


# --- weights ---------------------------------------------------------------------------------------------------------


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("nest", ["", "state_dict", "model", "model_state_dict"])
def test_nested_and_prefixed_state_dicts(tmp_path: Path, prefix: str, nest: str) -> None:
    given, model = small(), small()
    state: Any = {prefix + name: value for name, value in given.state_dict().items()}
    note = load_weights(
        model, save(tmp_path / "w.pt", {nest: state, "epoch": 3, "best": torch.ones(1)} if nest else state)
    )
    assert same(given, model)
    assert note == "9 tensors from w.pt" + (f" (prefix {prefix!r} removed)" if prefix else "")


def test_a_prefix_that_the_model_has_stays(tmp_path: Path) -> None:
    given, model = nn.ModuleDict({"module": small()}), nn.ModuleDict({"module": small()})
    load_weights(model, save(tmp_path / "w.pt", given.state_dict()))
    assert same(given, model)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_are_known_by_name_or_content(tmp_path: Path, name: str) -> None:
    from safetensors.torch import save_file

    given, model = small(), small()
    save_file(given.state_dict(), tmp_path / name)
    load_weights(model, tmp_path / name)
    assert same(given, model)


def test_tied_tensors_and_batch_counters_may_be_missing(tmp_path: Path) -> None:
    def tied() -> nn.ModuleList:
        layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)])
        layers[1].weight = layers[0].weight
        return layers

    given, model = tied(), tied()
    state = {k: v for k, v in given.state_dict().items() if k not in ("1.weight", "2.num_batches_tracked")}
    load_weights(model, save(tmp_path / "w.pt", state))
    assert torch.equal(model[1].weight, given[0].weight)
    assert model[1].weight is model[0].weight


def test_half_precision_is_cast(tmp_path: Path) -> None:
    given, model = small(), small()
    load_weights(model, save(tmp_path / "w.pt", {k: v.half() for k, v in given.state_dict().items()}))
    assert model[0].weight.dtype == torch.float32
    torch.testing.assert_close(model[0].weight, given[0].weight, atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_counted_and_nothing_of_it_loaded(tmp_path: Path) -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    state["4.weight"] = torch.zeros(7, 4)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        del state[name]
    state["extra"] = torch.zeros(1)
    with pytest.raises(ModelError) as caught:
        load_weights(model, save(tmp_path / "w.pt", state))
    line = str(caught.value)
    assert "w.pt does not fit Sequential (9 tensors; the file has 6)" in line
    assert "4 missing (0.weight, 0.bias, 1.weight, and 1 more)" in line
    assert "1 unexpected (extra)" in line
    assert "1 of another shape (4.weight (7, 4) for (5, 4))" in line
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_that_need_unpickling_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    with pytest.raises(
        ModelError, match=r"holds objects \(.*mkdir\), not only tensors.*torch\.save\(model\.state_dict"
    ):
        load_weights(small(), save(tmp_path / "w.pt", Trap()))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ModelError, match=r"holds objects \(torch\.nn\.modules"):
        load_weights(small(), save(tmp_path / "w.pt", small()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither safetensors nor a state dict"),
        (b"hello, this is text", "neither safetensors nor a state dict"),
        (b"\x10\0\0\0\0\0\0\0{broken", "not a whole safetensors file"),
        (torch.zeros(3), "holds Tensor, not tensors by name"),
        ({"epoch": 3, "lr": 0.1}, r"holds a dict with epoch, lr, not tensors by name"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "w.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        save(file, content)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(small(), file)
    assert "\n" not in str(caught.value)


def test_missing_weights_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.pt: no such file"):
        load_weights(small(), tmp_path / "none.pt")
    with pytest.raises(ModelError, match="it is a folder"):
        load_weights(small(), tmp_path)


def test_weights_for_a_factory(factory_file: Path, tmp_path: Path) -> None:
    given = load_model(f"{factory_file}:pair").model
    file = save(tmp_path / "w.pt", given.state_dict())
    loaded = load_model(f"{factory_file}:pair", weights=file)
    assert same(given, loaded.model)
    assert loaded.source == "nets.py:pair; 4 tensors from w.pt"


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "cat\n dog \n\n", ("cat", "dog")),
        ("l.txt", "\ufeffKatze\r\nHündin\r\n", ("Katze", "Hündin")),
        ("l.txt", "[not json\nbut names", ("[not json", "but names")),
        ("l.json", '["cat", "dog"]', ("cat", "dog")),
        ("l.json", '{"1": "dog", "0": "cat", "3": "owl"}', ("cat", "dog", "class 2", "owl")),
        ("l.json", '{"0": ["n02123045", "tabby"], "1": ["n02099601", "retriever"]}', ("tabby", "retriever")),
        ("l.json", '{"dog": 1, "cat": 0}', ("cat", "dog")),
        ("l.json", '{"sex": ["m", "f"], "age": {"0": "young"}}', {"sex": ("m", "f"), "age": ("young",)}),
    ],
)
def test_label_files(tmp_path: Path, name: str, text: str, expected: Any) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_labels(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"", "is empty"),
        ("l.txt", b"cat\n\ndog\n", "line 2 is blank"),
        ("l.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("l.json", b"{", "not valid JSON"),
        ("l.json", b"3", "a list of names or a dict index -> name is expected, not 3"),
        ("l.json", b"[1, 2]", "not list"),
        ("l.json", b'{"a": "b"}', "an entry index -> name is expected, not 'a' -> 'b'"),
        ("l.json", b'{"99999999999": "b"}', "an entry index -> name is expected"),
        ("l.json", b"{}", "holds no names"),
    ],
)
def test_each_fault_of_a_label_file_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_labels(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_label_file_replaces_the_models_own(factory_file: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("lion\ntiger\n")
    assert load_model(f"{factory_file}:pair", labels=tmp_path / "l.txt").labels == ("lion", "tiger")
    with pytest.raises(InputError, match=r"none.txt cannot be read: No such file"):
        load_model(f"{factory_file}:pair", labels=tmp_path / "none.txt")


def test_label_of() -> None:
    assert label_of(("cat", "dog"), 1) == "dog"
    assert label_of(("cat", "dog"), 2) == "class 2"
    assert label_of(None, 3) == "class 3"
    assert label_of({"sex": ("m", "f")}, 1, "sex") == "f"
    assert label_of({"sex": ("m", "f")}, 1, "age") == "class 1"
    assert as_labels(("x",), "here") == ("x",)


# --- libraries -------------------------------------------------------------------------------------------------------


@needs("timm")
def test_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("timm:test_resnet.r160_in1k", random=True)
    assert loaded.input_size == (3, 160, 160)
    assert loaded.labels is None
    assert loaded.preprocess(Image.new("L", (90, 50))).shape == (3, 160, 160)
    assert loaded.model(loaded.preprocess(PICTURE)[None]).shape == (1, 1000)

    file = save(tmp_path / "w.pt", loaded.model.state_dict())
    again = load_model("timm:test_resnet.r160_in1k", weights=file)
    assert same(loaded.model, again.model)
    assert isinstance(again.labels, tuple)
    assert len(again.labels) == len(set(again.labels)) == 1000
    assert again.labels[1] == "goldfish"
    assert again.labels[134] != again.labels[517]  # both are "crane": a bird and a machine

    timm = require("timm", "vision")
    file = save(tmp_path / "w3.pt", {"state_dict": timm.create_model("test_resnet", num_classes=3).state_dict()})
    three = load_model("timm:test_resnet.r160_in1k", weights=file)
    assert three.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert three.labels is None
    assert "3 classes" in three.source

    with pytest.raises(ModelError, match=r"timm has no model 'resnet1888'; similar: resnet18"):
        load_model("timm:resnet1888", random=True)

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(zoos, "_resolves", lambda host: False)
    with pytest.raises(
        ModelError, match=r"OSError: no route to host\); give its weights .*--weights FILE, .*--random$"
    ):
        load_model("timm:test_resnet.r160_in1k")


@needs("torchvision")
def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("torchvision:squeezenet1_1", random=True)
    assert loaded.input_size == (3, 224, 224)
    assert loaded.labels is None
    file = save(tmp_path / "w.pt", loaded.model.state_dict())
    again = load_model("torchvision:squeezenet1_1", weights=file)
    assert again.labels is not None
    assert label_of(again.labels, 1) == "goldfish"
    assert again.source == "torchvision squeezenet1_1, 52 tensors from w.pt"
    with pytest.raises(ModelError, match="torchvision has no model 'resnet'; similar: resnet"):
        load_model("torchvision:resnet", random=True)

    models = require("torchvision.models", "vision")

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(models, "get_model", offline)
    with pytest.raises(ModelError, match=r"torchvision:squeezenet1_1: .*no route to host\); .*--weights FILE"):
        load_model("torchvision:squeezenet1_1")


@needs("torchvision")
def test_torchvision_model_of_clips() -> None:
    models = require("torchvision.models", "vision")
    transform = models.get_model_weights("mc3_18").DEFAULT.transforms()
    preprocess = ClipPreprocess(transform, 5)
    assert preprocess(PICTURE).shape == (3, 5, 112, 112)
    frames = [Image.new("RGB", (80, 60), (level, level, level)) for level in (0, 100, 200)]
    clip = preprocess(frames)
    assert clip.shape == (3, 3, 112, 112)
    assert (clip.diff(dim=1) > 0).all()


@needs("transformers")
def test_transformers_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = require("transformers", "hf")
    config = hf.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], id2label={0: "a", 1: "b", 2: "c"})
    model = hf.ResNetForImageClassification(config).eval()
    model.half().save_pretrained(tmp_path / "net")
    monkeypatch.chdir(tmp_path)

    loaded = load_model("hf:./net")
    assert loaded.labels == ("a", "b", "c")
    assert "no image processor found, assumed: RGB, squashed to 224x224" in loaded.source
    assert {value.dtype for value in loaded.model.parameters()} == {torch.float32}

    hf.ViTImageProcessor(size={"height": 40, "width": 56}).save_pretrained(tmp_path / "net")
    loaded = load_model("hf:./net")
    assert loaded.input_size == (3, 40, 56)
    inputs = loaded.make_inputs(loaded.preprocess(PICTURE.convert("L"))[None])
    assert list(inputs) == ["pixel_values"]
    assert isinstance(inputs["pixel_values"], Tensor)
    logits = loaded.model(**inputs).logits
    torch.testing.assert_close(logits, model.float()(**inputs).logits)

    fresh = load_model("hf:./net", random=True)
    assert fresh.labels is None
    assert not torch.equal(fresh.model(**inputs).logits, logits)

    config.num_labels = 5
    file = save(tmp_path / "five.pt", hf.ResNetForImageClassification(config).state_dict())
    assert load_model("hf:./net", weights=file).model(**inputs).logits.shape == (1, 5)

    hf.ResNetModel(config).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ModelError, match=r"no weights for 2 tensors of ResNetForImageClassification \(classifier"):
        load_model("hf:./backbone")

    monkeypatch.setattr(zoos, "_resolves", lambda host: False)
    constants = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ModelError, match=r"could not be fetched or loaded .*; give a folder") as caught:
        load_model("hf:sc-none/no-such-model", random=True)
    assert "\n" not in str(caught.value)
    assert before == constants.HF_HUB_OFFLINE


@pytest.mark.material
@pytest.mark.skipif(not (MATERIAL / "models.py").is_file(), reason=f"no trained models in {MATERIAL}")
@pytest.mark.parametrize(("factory", "side"), [("cifar_resnet20", 32), ("age_gender", 112)])
def test_trained_models_beside_the_project(factory: str, side: int) -> None:
    loaded = load_model(f"{MATERIAL / 'models.py'}:{factory}")
    assert loaded.input_size == (3, side, side)
    assert loaded.model(loaded.preprocess(PICTURE)[None]) is not None
