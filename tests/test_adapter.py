"""Saving and loading what was fitted."""

import json
import pickle
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import squeezecam
from conftest import ChannelsLast, ConvNet, NormHead, Structured, TwoStreams, Wrapper, leave_identity
from squeezecam.errors import AdapterError, InputError, SqueezeWarning


def fitted(model=None, x=None, **options):
    model = model if model is not None else ConvNet().eval()
    x = x if x is not None else torch.randn(3, 2, 14, 18)
    squeeze = leave_identity(squeezecam.attach(model, x, **options))
    squeeze.fit_info = {"objective": "faithful", "seed": 3, "trained": []}
    return squeeze, model, x


def twin(model):
    """The same architecture and weights in another object."""
    other = type(model)().eval()
    other.load_state_dict(model.state_dict())
    return other


def same(first, second, x):
    for method in ("published", "class"):
        a, b = first.explain(x, method=method), second.explain(x, method=method)
        assert torch.equal(a.heatmap, b.heatmap)
        assert torch.equal(a.output, b.output)
        assert a.status == b.status == ["ok"] * len(x)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.squeeze.safetensors"


# --- there and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("kind", [ConvNet, ChannelsLast, NormHead])
def test_round_trip(kind, apply, file):
    squeeze, model, x = fitted(kind().eval(), apply=apply, hidden=7)
    squeeze.save(file)
    loaded = squeezecam.load(file, twin(model), x)
    same(squeeze, loaded, x)
    assert loaded.apply_mode == apply
    assert loaded.fit_info == squeeze.fit_info
    assert loaded.block().hidden == 7
    assert list(file.parent.iterdir()) == [file]  # no temporary file is left


def test_the_site_that_was_named_comes_back(file):
    squeeze, model, x = fitted(at="features.1")
    squeeze.save(str(file))
    loaded = squeezecam.load(str(file), twin(model), x)
    assert loaded.places["map"].describe() == squeeze.places["map"].describe()
    assert torch.equal(loaded.explain(x, method="published").heatmap, squeeze.explain(x, method="published").heatmap)


def test_several_streams(file):
    inputs = (torch.randn(2, 2, 14, 14), torch.randn(2, 2, 20, 10))
    squeeze, model, _ = fitted(TwoStreams().eval(), inputs, at={"face": "face.features", "body": "body.features"})
    squeeze.save(file)
    loaded = squeezecam.load(file, twin(model), inputs)
    for stream in ("face", "body"):
        assert torch.equal(loaded.explain(inputs).heatmap[stream], squeeze.explain(inputs).heatmap[stream])


def test_the_output_that_was_fitted_is_the_default_again(file):
    squeeze, model, x = fitted(Structured("dict").eval())
    squeeze.default_output = "extra"
    squeeze.save(file)
    other = Structured("dict").eval()
    other.load_state_dict(model.state_dict())
    assert squeezecam.load(file, other, x).explain(x).scores.shape == (3, 1)


def test_the_mode_can_be_overridden(file):
    squeeze, model, x = fitted(apply="gate")
    squeeze.save(file)
    loaded = squeezecam.load(file, twin(model), x, apply="observe")
    assert torch.equal(loaded(x), model(x))


def test_a_trained_head_travels_along(file):
    squeeze, model, x = fitted(apply="gate")
    start = twin(model)
    with torch.no_grad():
        model.fc.weight.mul_(2)
    squeeze.fit_info["trained"] = ["fc.weight"]
    squeeze.save(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = squeezecam.load(file, start, x, strict=True)
    same(squeeze, loaded, x)


def test_tied_weights_can_be_saved(file):
    squeeze, model, _ = fitted(apply="gate")
    model.features[0].bias = nn.Parameter(torch.zeros(8))
    model.twin_bias = model.features[0].bias
    squeeze.fit_info["trained"] = list(model.state_dict())
    squeeze.save(file)
    with safe_open(file, "pt") as saved:
        assert {"model.twin_bias", "model.features.0.bias"} <= set(saved.keys())


def test_flags_of_the_model_survive_loading(file):
    squeeze, model, x = fitted()
    squeeze.save(file)
    other = twin(model).train()
    other.features[1].eval()
    loaded = squeezecam.load(file, other, x)
    assert [m.training for m in other.features] == [True, False, True, True]
    assert loaded.block().training
    assert not squeezecam.load(file, twin(model), x).block().training


def test_a_loaded_block_can_be_fitted_on(file):
    squeeze, model, x = fitted(apply="gate")
    squeeze.save(file)
    loaded = squeezecam.load(file, twin(model), x)
    loaded(x).square().sum().backward()
    assert loaded.block().expand.weight.grad.abs().max() > 0


# --- which model ----------------------------------------------------------------------------------------


def test_another_architecture_is_refused_with_both_named(file):
    squeeze, _, x = fitted()
    squeeze.save(file)
    with pytest.raises(AdapterError, match=r"fitted on ConvNet .* given is NormHead"):
        squeezecam.load(file, NormHead(), x)
    with pytest.raises(AdapterError, match=r"given is ConvNet"):
        squeezecam.load(file, ConvNet(channels=48), x)


def test_other_weights_warn_and_are_refused_when_strict(file):
    squeeze, model, x = fitted()
    squeeze.save(file)
    other = ConvNet().eval()
    with pytest.warns(SqueezeWarning, match="other weights"):
        loaded = squeezecam.load(file, other, x)
    assert loaded.fitted
    with pytest.raises(AdapterError, match="other weights"):
        squeezecam.load(file, other, x, strict=True)
    slightly = twin(model)
    with torch.no_grad():
        slightly.features[2].weight += 0.05 * slightly.features[2].weight.std() * torch.randn(32, 8, 3, 3)
    with pytest.raises(AdapterError, match="other weights"):
        squeezecam.load(file, slightly, x, strict=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_same_weights_in_another_precision_are_the_same_model(dtype, file):
    squeeze, model, x = fitted(ConvNet(channels=128).eval())
    squeeze.save(file)
    other = ConvNet(channels=128).eval()
    other.load_state_dict(model.state_dict())
    loaded = squeezecam.load(file, other.to(dtype), x.to(dtype), strict=True)
    expected = squeeze.explain(x, target=0).heatmap
    torch.testing.assert_close(loaded.explain(x.to(dtype), target=0).heatmap.float(), expected, atol=2e-2, rtol=5e-2)


def compiled_alike(model):
    """The names of a compiled module, without compiling."""
    holder = nn.Module()
    holder._orig_mod = model
    holder.forward = model.__call__
    return holder


WRAPPED = {
    "parallel": Wrapper,
    "parallel, twice": lambda model: Wrapper(Wrapper(model)),
    "compiled": compiled_alike,
    "parallel, then compiled": lambda model: compiled_alike(Wrapper(model)),
    "compiled, then parallel": lambda model: Wrapper(compiled_alike(model)),
}


@pytest.mark.parametrize("trained", [[], ["fc.weight"]])
@pytest.mark.parametrize("kind", WRAPPED)
def test_prefixes_of_wrappers_do_not_matter_in_either_direction(kind, trained, file):
    squeeze, model, x = fitted()
    squeeze.fit_info["trained"] = trained
    squeeze.save(file)
    same(squeeze, squeezecam.load(file, WRAPPED[kind](twin(model)), x, strict=True), x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SqueezeWarning)  # a compiled model is attached to with a word of warning
        around = leave_identity(squeezecam.attach(WRAPPED[kind](twin(model)), x))
    around.fit_info = {"trained": [n for n in around.model.state_dict() if n.endswith("fc.weight")] if trained else []}
    around.save(file)
    same(around, squeezecam.load(file, twin(model), x, strict=True), x)


def test_a_submodule_that_was_compiled_does_not_matter(file):
    squeeze, model, x = fitted()
    squeeze.save(file)
    other = twin(model)
    other.features = compiled_alike(other.features)
    same(squeeze, squeezecam.load(file, other, x, strict=True), x)


# --- damaged and foreign files --------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused_and_the_model_left_alone(file):
    squeeze, _, x = fitted()
    squeeze.fit_info["trained"] = ["fc.weight"]
    squeeze.save(file)
    data, other = file.read_bytes(), ConvNet().eval()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for length in (0, 4, 9, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(AdapterError, match="not a complete safetensors file"):
            squeezecam.load(file, other, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


class Trap:
    """Unpickling it raises, so that reading it as a pickle would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "text", "zeros"])
def test_what_is_no_safetensors_file_is_refused_and_never_unpickled(kind, file):
    _, model, x = fitted()
    if kind == "torch.save":
        torch.save({"a": Trap()}, file)
    else:
        file.write_bytes({"pickle": pickle.dumps(Trap()), "text": b"hello, world", "zeros": bytes(4096)}[kind])
    with pytest.raises(AdapterError, match=r"model\.squeeze\.safetensors"):
        squeezecam.load(file, model, x)


def test_a_safetensors_file_of_something_else_is_refused(file):
    _, model, x = fitted()
    save_file(model.state_dict(), file)
    with pytest.raises(AdapterError, match="not an adapter of squeezecam"):
        squeezecam.load(file, model, x)


def rewritten(file, record=lambda about: about, tensors=lambda found: found):
    """The adapter at ``file`` with its record and tensors changed."""
    with safe_open(file, "pt") as saved:
        about = json.loads(saved.metadata()["squeezecam"])
        found = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 - not a dict
    save_file(tensors(found), file, {"squeezecam": json.dumps(record(about))})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record": lambda about: about | {"format": "squeezecam-adapter/9"}}, "format 'squeezecam-adapter/9'"),
        ({"record": lambda about: {"format": about["format"]}}, "record lacks sites"),
        ({"record": lambda about: ["no", "dict"]}, "not an adapter"),
        ({"tensors": lambda old: {"blocks.map.reduce.weight": torch.zeros(2, 32)}}, "expand.weight' has shape None"),
        ({"tensors": lambda old: old | {"blocks.map.expand.weight": torch.zeros(32, 9)}}, r"9\), expected \(32, 2\)"),
        ({"tensors": lambda old: old | {"model.fc.weight": torch.zeros(6, 32)}}, r"'fc.weight' has shape \(6, 32\)"),
        ({"tensors": lambda found: found | {"model.nothing": torch.zeros(1)}}, "'nothing' has shape"),
    ],
)  # fmt: skip
def test_a_record_or_tensor_that_does_not_fit_is_refused(change, words, file):
    squeeze, model, x = fitted()
    squeeze.save(file)
    rewritten(file, **change)
    before = model.fc.weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SqueezeWarning)
        with pytest.raises(AdapterError, match=words):
            squeezecam.load(file, model, x)
    assert torch.equal(model.fc.weight, before)


def test_a_failure_after_the_head_was_put_in_takes_it_out_again(file):
    squeeze, model, x = fitted()
    squeeze.fit_info["trained"] = ["fc.weight"]
    squeeze.save(file)
    other = twin(model)
    nn.init.zeros_(other.fc.weight)
    with pytest.raises(RuntimeError):
        squeezecam.load(file, other, x[:, :1])  # an example that the model cannot take
    assert other.fc.weight.count_nonzero() == 0


def test_files_that_are_not_there(tmp_path):
    squeeze, model, x = fitted()
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(AdapterError, match="no such adapter file"):
            squeezecam.load(path, model, x)
    with pytest.raises(InputError, match="does not exist"):
        squeeze.save(tmp_path / "missing" / "a.safetensors")


def test_a_failed_save_leaves_the_older_file(file):
    squeeze, _, _ = fitted()
    squeeze.save(file)
    before = file.read_bytes()
    squeeze.fit_info = {"cannot": object()}
    with pytest.raises(TypeError):
        squeeze.save(file)
    assert file.read_bytes() == before


def test_equal_adapters_are_equal_files(tmp_path):
    squeeze, _, _ = fitted()
    squeeze.save(tmp_path / "a")
    squeeze.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
