"""The ``Squeeze`` around a model: what it must not change, and what it must survive."""

import copy
import gc
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import squeezecam
from conftest import (
    WRAPPERS,
    Answer,
    ChannelsLast,
    ConvHead,
    ConvNet,
    InPlaceRelu,
    NormHead,
    Pair,
    Structured,
    TwoStreams,
    Wrapper,
    hooks_of,
    leave_identity,
)
from squeezecam.errors import InputError, SiteError, SqueezeError, SqueezeWarning

MODELS = {
    "linear": ConvNet,
    "1-D": lambda: ConvNet(1),
    "3-D": lambda: ConvNet(3),
    "channels last": ChannelsLast,
    "norm-linear": NormHead,
    "conv": ConvHead,
    "in-place relu": InPlaceRelu,
}
SHAPES = {"1-D": (3, 2, 40), "3-D": (3, 2, 6, 10, 12)}


def model_and_input(kind="linear"):
    return MODELS[kind]().eval(), torch.randn(SHAPES.get(kind, (3, 2, 14, 18)))


# --- the model's outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_observe_leaves_the_output_to_the_bit_also_when_fitted(kind):
    model, x = model_and_input(kind)
    before = model(x)
    squeeze = leave_identity(squeezecam.attach(model, x))
    assert torch.equal(squeeze(x), before)
    assert torch.equal(squeeze.explain(x).output, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_gate_leaves_the_output_to_the_bit_while_the_block_is_fresh(kind, dtype):
    model, x = model_and_input(kind)
    model, x = model.to(dtype), x.to(dtype)
    before = model(x)
    squeeze = squeezecam.attach(model, x, apply="gate")
    assert torch.equal(squeeze(x), before)
    assert torch.equal(squeeze.explain(x).output, before)


@pytest.mark.parametrize("kind", MODELS)
def test_gate_changes_what_the_squeeze_returns_and_never_the_model(kind):
    model, x = model_and_input(kind)
    kept_class, keys, before = type(model), list(model.state_dict()), model(x)
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate"))
    gated = squeeze(x)
    assert not torch.allclose(gated, before)
    assert torch.equal(squeeze.explain(x).output, gated)
    assert torch.equal(model(x), before)
    assert type(model) is kept_class
    assert list(model.state_dict()) == keys
    assert hooks_of(model) == 0


def test_the_gated_output_is_that_of_gated_features():
    model, x = model_and_input()
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate"))
    features = model.features(x)
    gates = squeeze.block().gates(features.mean((2, 3)))
    torch.testing.assert_close(squeeze(x), model.fc((2 * gates[:, :, None, None] * features).mean((2, 3))))


def test_an_activation_in_place_after_the_site_does_not_reach_the_captured_map():
    model, x = model_and_input("in-place relu")
    squeeze = squeezecam.attach(model, x, at="features")
    _, found = squeeze.capture(x)
    expected = model.features(x)
    assert (expected < 0).any()
    torch.testing.assert_close(found["map"].features, expected)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_structured_outputs_come_back_in_their_own_form(kind):
    model, x = Structured(kind).eval(), torch.randn(3, 2, 14, 18)
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate"))
    result, own = squeeze(x), model(x)
    assert type(result) is type(own)
    explained = squeeze.explain(x)
    assert type(explained.output) is type(own)
    assert explained.scores.shape == (3, 5)
    assert explained.heatmap.shape == (3, 14, 18)
    one = explained[1]
    assert type(one.output) is type(own)
    assert torch.equal(one.scores, explained.scores[1:2])
    if kind == "dataclass":
        assert isinstance(one.output, Answer)
        assert (one.output.logits.shape, one.output.note) == ((1, 5), "kept")
    if kind == "namedtuple":
        assert isinstance(one.output, Pair)
        assert one.output.extra.shape == (1, 1)


@pytest.mark.parametrize(
    ("kind", "names"), [("dict", ("logits", "extra")), ("tuple", (0, 1)), ("nested", ("logits", "aux.extra"))]
)
def test_one_of_several_outputs_is_named(kind, names):
    model, x = Structured(kind).eval(), torch.randn(3, 2, 14, 18)
    squeeze = squeezecam.attach(model, x)
    assert squeeze.explain(x, output=names[0]).scores.shape == (3, 5)
    other = squeeze.explain(x, output=names[1])
    assert other.scores.shape == (3, 1)
    torch.testing.assert_close(other.raw.mean((1, 2)) + model.other.bias, other.scores[:, 0])


# --- gradients ------------------------------------------------------------------------------------------


def test_in_gate_mode_the_block_trains_with_the_model():
    model, x = model_and_input()
    squeeze = squeezecam.attach(model, x, apply="gate").train()
    optimiser = torch.optim.SGD(squeeze.parameters(), lr=0.5)
    for step in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(squeeze(x), torch.tensor([0, 1, 2])).backward()
        reduced = squeeze.block().reduce.weight.grad.abs().max()
        assert (reduced > 0) == (step > 0)
        assert squeeze.block().expand.weight.grad.abs().max() > 0
        assert model.features[0].weight.grad.abs().max() > 0
        optimiser.step()
    assert squeeze.fitted


def test_explain_leaves_gradients_and_modes_alone():
    model, x = model_and_input()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x.requires_grad_()
    squeeze = leave_identity(squeezecam.attach(model, x))
    expected = squeeze.explain(x)
    assert torch.is_grad_enabled()
    assert x.grad is None
    assert [p.requires_grad for p in model.parameters()] == [False] * len(list(model.parameters()))
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            explained = squeeze.explain(x)
        for name in ("heatmap", "raw", "gates", "output", "scores"):
            assert not getattr(explained, name).requires_grad, name
        assert torch.equal(explained.heatmap, expected.heatmap)


def test_a_block_made_under_inference_mode_can_be_trained():
    model, x = model_and_input()
    with torch.inference_mode():
        squeeze = squeezecam.attach(model, x, apply="gate")
    squeeze(x).sum().backward()
    assert squeeze.block().expand.weight.grad.abs().max() > 0


@pytest.mark.parametrize("how", ["no_grad", "checkpoint"])
def test_a_place_without_gradients_warns_in_training_only(how):
    class Segmented(ConvNet):
        def forward(self, x):
            if how == "checkpoint":
                return self.fc(checkpoint(self.features, x, use_reentrant=True).mean((2, 3)))
            with torch.no_grad():
                features = self.features(x)
            return self.fc(features.mean((2, 3)))

    model, x = Segmented().eval(), torch.randn(3, 2, 14, 18)
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate"))
    squeeze(x)
    squeeze.explain(x)
    with pytest.warns(SqueezeWarning, match="output of features.* runs without gradients"):
        squeeze.train()(x.requires_grad_())


def test_a_part_that_runs_again_in_the_backward_pass_is_refused_in_training_only():
    class Segmented(ConvNet):
        def forward(self, x):
            return self.fc(checkpoint(self.features, x, use_reentrant=False).mean((2, 3)))

    model, x = Segmented().eval(), torch.randn(3, 2, 14, 18)
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate"))
    squeeze.explain(x)
    with pytest.raises(InputError, match=r"output of features.* runs under activation checkpointing"):
        squeeze.train()(x)
    squeezecam.attach(model, x).train()(x).sum().backward()  # a block that only watches is in nobody's way


def test_a_checkpoint_of_the_whole_runs_again_with_its_block():
    model, x = ConvNet().eval(), torch.randn(3, 2, 14, 18)
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate")).train()
    squeeze(x).square().sum().backward()
    expected = [p.grad.clone() for p in squeeze.parameters()]
    squeeze.zero_grad()
    checkpoint(squeeze, x.requires_grad_(), use_reentrant=False).square().sum().backward()
    assert all(torch.equal(p.grad, one) for p, one in zip(squeeze.parameters(), expected, strict=True))


# --- flags, hooks, exceptions ---------------------------------------------------------------------------


class Moody(nn.Module):
    """Dropout and batch norm, a frozen part, and a failure on demand after the site."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 4)
        self.fail = False

    def forward(self, x):
        x = self.features(x)
        if self.fail:
            raise RuntimeError("in the middle")
        return self.fc(self.drop(x.mean((2, 3))))


def moody():
    model = Moody().train()
    model.features[1].eval()  # a frozen batch norm inside a model in training
    return model, torch.randn(4, 2, 12, 12)


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def test_attach_and_explain_run_in_evaluation_mode_and_put_every_flag_back():
    model, x = moody()
    before, statistics = flags(model), model.features[1].running_mean.clone()
    squeeze = leave_identity(squeezecam.attach(model, x))
    assert flags(model) == before
    assert squeeze.training
    first, second = squeeze.explain(x), squeeze.explain(x)
    assert torch.equal(first.output, second.output)  # no dropout
    assert flags(model) == before
    assert torch.equal(model.features[1].running_mean, statistics)
    assert torch.equal(squeeze.predict(x, lambda stream, seen: torch.ones_like(seen.gates)), first.output)
    squeeze.as_module()
    assert flags(model) == before


def test_train_and_eval_reach_the_model():
    model, x = moody()
    squeeze = squeezecam.attach(model, x)
    squeeze.eval()
    assert not any(flags(model).values())
    squeeze.train()
    assert all(flags(model).values())


@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_after_an_exception_the_model_is_as_it_was(apply):
    model, x = moody()
    squeeze = leave_identity(squeezecam.attach(model, x, apply=apply))
    before, hooks = flags(squeeze), hooks_of(model)
    expected = squeeze.explain(x)
    model.fail = True
    for call in (squeeze.explain, squeeze.capture, squeeze, lambda x: squeeze.predict(x, lambda s, c: c.gates)):
        with pytest.raises(RuntimeError, match="in the middle"):
            call(x)
        assert hooks_of(model) == hooks == 0
        assert flags(squeeze) == before
    with pytest.raises(RuntimeError, match="in the middle"):
        squeezecam.attach(model, x)
    model.fail = False
    assert hooks_of(model) == 0
    assert torch.equal(squeeze.explain(x).heatmap, expected.heatmap)


def test_an_error_in_the_callers_function_leaves_no_hook():
    model, x = model_and_input()
    squeeze = squeezecam.attach(model, x)
    with pytest.raises(ZeroDivisionError):
        squeeze.predict(x, lambda stream, seen: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        squeeze.explain(x, target=lambda out: 1 / 0)
    assert hooks_of(model) == 0


def test_the_users_own_hooks_stay_and_see_every_pass_once():
    model, x = model_and_input()
    seen = []
    model.features.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    squeeze = squeezecam.attach(model, x)
    seen.clear()
    squeeze.explain(x)
    squeeze(x)
    assert len(seen) == 2
    assert hooks_of(model) == 1


# --- memory and threads ---------------------------------------------------------------------------------


def live_tensors():
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_nothing_is_left_behind_over_200_calls(apply):
    model, x = model_and_input()
    squeeze = leave_identity(squeezecam.attach(model, x, apply=apply))
    squeeze.explain(x)
    gc.collect()
    before = live_tensors()
    gc.disable()  # what only the cycle collector can free would pile up in a long-running service
    try:
        for _ in range(200):
            squeeze.explain(x)
        after = live_tensors()
    finally:
        gc.enable()
    assert after == before


@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_two_threads_explain_with_one_squeeze(apply):
    model, _ = model_and_input()
    inputs = [torch.randn(2, 2, 14, 18) for _ in range(40)]
    squeeze = leave_identity(squeezecam.attach(model, inputs[0], apply=apply)).eval()
    expected = [squeeze.explain(x) for x in inputs]
    found, errors = {}, []

    def work(start):
        try:
            for i in range(start, len(inputs), 2):
                found[i] = squeeze.explain(inputs[i])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for i, wanted in enumerate(expected):
        for name in ("heatmap", "gates", "output"):
            torch.testing.assert_close(getattr(found[i], name), getattr(wanted, name))
    assert hooks_of(model) == 0


def test_the_thread_that_ends_first_does_not_wake_the_dropout_of_the_other():
    class Meeting(Moody):
        """The first pass begins first and ends first; the second is held in its middle until then."""

        first_in, second_in, first_done = threading.Event(), threading.Event(), threading.Event()

        def forward(self, x):
            if threading.current_thread().name == "first":
                self.first_in.set()
                assert self.second_in.wait(20)
            elif threading.current_thread().name == "second":
                self.second_in.set()
                assert self.first_done.wait(20)
            return super().forward(x)

    model, x = Meeting().train(), torch.randn(4, 2, 12, 12)
    squeeze = leave_identity(squeezecam.attach(model, x))
    expected, found = squeeze.explain(x).output, {}

    def first():
        found["first"] = squeeze.explain(x).output
        model.first_done.set()

    def second():
        assert model.first_in.wait(20)
        found["second"] = squeeze.explain(x).output

    threads = [threading.Thread(target=first, name="first"), threading.Thread(target=second, name="second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(flags(model).values())
    assert torch.equal(found["first"], expected)
    assert torch.equal(found["second"], expected)


# --- copies ---------------------------------------------------------------------------------------------


def same_explanation(first, second, x):
    for method in ("published", "class"):
        a, b = first.explain(x, method=method), second.explain(x, method=method)
        assert torch.equal(a.heatmap, b.heatmap)
        assert torch.equal(a.output, b.output)
        assert a.status == b.status


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_deep_copy_explains_alike_and_stands_alone(kind, apply):
    model, x = model_and_input(kind)
    squeeze = leave_identity(squeezecam.attach(model, x, apply=apply))
    copied = copy.deepcopy(squeeze)
    same_explanation(squeeze, copied, x)
    before = squeeze.explain(x)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(squeeze.explain(x).heatmap, before.heatmap)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_round_trip(protocol):
    model, x = model_and_input()
    squeeze = leave_identity(squeezecam.attach(model, x, apply="gate"))
    squeeze.explain(x)
    copied = pickle.loads(pickle.dumps(squeeze, protocol))
    assert copied.apply_mode == "gate"
    same_explanation(squeeze, copied, x)


def test_state_dict_round_trip():
    model, x = model_and_input()
    squeeze = leave_identity(squeezecam.attach(model, x))
    other = squeezecam.attach(ConvNet().eval(), x)
    other.load_state_dict(squeeze.state_dict())
    same_explanation(squeeze, other, x)
    assert {name.split(".")[0] for name in squeeze.state_dict()} == {"model", "blocks"}


def test_get_finds_the_handle_in_wrapped_and_copied_modules():
    model, x = model_and_input()
    squeeze = leave_identity(squeezecam.attach(model, x))
    assert squeezecam.get(squeeze) is squeeze
    assert squeezecam.get(Wrapper(Wrapper(squeeze))) is squeeze
    assert squeezecam.get(nn.DataParallel(squeeze)) is squeeze
    for made in (copy.deepcopy(Wrapper(squeeze)), AveragedModel(squeeze), pickle.loads(pickle.dumps(Wrapper(squeeze)))):
        found = squeezecam.get(made)
        assert found is not squeeze
        same_explanation(squeeze, found, x)


def test_get_says_how_many_there_are_where_it_is_not_one():
    model, x = model_and_input()
    with pytest.raises(SqueezeError, match="ConvNet holds 0 Squeeze modules"):
        squeezecam.get(model)
    two = nn.ModuleList([squeezecam.attach(model, x), squeezecam.attach(ConvNet(), x)])
    with pytest.raises(SqueezeError, match="holds 2"):
        squeezecam.get(two)


# --- what attach takes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one stream", "two streams"])
def test_attaching_leaves_the_callers_random_numbers_alone_and_still_follows_his_seed(kind):
    two = kind == "two streams"
    model = (TwoStreams() if two else ConvNet()).eval()
    x = torch.randn(2, 2, 14, 18)
    example = (x, torch.randn(2, 2, 20, 10)) if two else x

    def attached(seed):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        squeeze = squeezecam.attach(model, example)
        assert torch.equal(torch.get_rng_state(), before)
        return [block.reduce.weight.detach() for block in squeeze.blocks.values()]

    first, again, other = attached(1), attached(1), attached(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_block_takes_the_models_dtype_and_the_asked_width():
    model, x = model_and_input()
    assert squeezecam.attach(model, x).block().hidden == 2
    assert squeezecam.attach(model, x, reduction=4).block().hidden == 8
    assert squeezecam.attach(model, x, hidden=50).block().hidden == 50
    assert squeezecam.attach(model.double(), x.double()).block().reduce.weight.dtype == torch.float64


@pytest.mark.parametrize("form", ["name", "module", "site", "stream"])
def test_a_place_may_be_given_in_every_form(form):
    model, x = model_and_input()
    at = {"name": "features.1", "module": model.features[1], "site": squeezecam.Site("features.1"),
          "stream": {"face": model.features[1]}}[form]  # fmt: skip
    squeeze = squeezecam.attach(model, x, at=at)
    ((stream, place),) = squeeze.places.items()
    assert (stream, place.module, place.channels, place.grid) == (
        "face" if form == "stream" else "map",
        "features.1",
        8,
        (7, 9),
    )


def test_the_site_that_is_printed_is_the_one_that_attaches():
    for kind in MODELS:
        model, x = model_and_input(kind)
        squeeze = squeezecam.attach(model, x)
        site = eval(repr(squeeze.places["map"].site), {"Site": squeezecam.Site})
        again = squeezecam.attach(model, x, at=site)
        assert again.places["map"].describe() == squeeze.places["map"].describe()


def test_two_streams_are_found_without_a_hint():
    model = TwoStreams().eval()
    squeeze = squeezecam.attach(model, (torch.randn(2, 2, 14, 14), torch.randn(2, 2, 20, 10)))
    assert sorted(place.channels for place in squeeze.places.values()) == [16, 24]


def test_printing_says_where_and_what():
    model, x = model_and_input()
    squeeze = squeezecam.attach(model, x, apply="gate")
    text = repr(squeeze)
    for words in (
        "ConvNet",
        "apply=gate",
        "not fitted",
        "features",
        "n c h w",
        "32 channels",
        "7 x 9",
        "128 parameters",
        "fc.weight",
    ):
        assert words in text
    assert ", fitted" in repr(leave_identity(squeeze))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "resnet50"}, InputError, "nn.Module, got str"),
        ({"apply": "watch"}, InputError, "'observe' or 'gate', got 'watch'"),
        ({"reduction": 0}, InputError, "at least 1"),
        ({"example": None}, InputError, "no tensor, it is NoneType"),
        ({"example": [[0.0, 1.0]]}, InputError, "no tensor, it is list"),
        ({"at": "layer4"}, SiteError, "no module 'layer4'"),
        ({"at": nn.ReLU()}, SiteError, "not a module of the ConvNet"),
        ({"at": "fc"}, SiteError, "no spatial extent"),
        ({"at": {}}, InputError, "names no place"),
        ({"at": {"face": None}}, InputError, "got NoneType"),
        ({"at": {"a.b": "features"}}, InputError, "cannot name a stream"),
        ({"at": {"keys": "features"}}, InputError, "cannot name a stream"),
        ({"at": ["features"]}, InputError, "got list"),
        ({"at": 3}, InputError, "got int"),
    ],
)  # fmt: skip
def test_what_cannot_be_attached_is_refused_in_words(change, error, words):
    model, x = model_and_input()
    options = {"model": model, "example": x} | change
    with pytest.raises(error, match=words):
        squeezecam.attach(**options)
    assert hooks_of(model) == 0


def test_a_squeeze_is_not_attached_to_again():
    model, x = model_and_input()
    with pytest.raises(InputError, match="Squeeze already"):
        squeezecam.attach(squeezecam.attach(model, x), x)


def test_a_model_without_a_map_is_refused():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(SiteError, match="no feature map with spatial extent"):
        squeezecam.attach(model, torch.randn(2, 8))


def test_a_model_that_runs_its_backbone_twice_is_told_why_and_what_to_name():
    class Augmented(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.act = nn.Sequential(nn.Conv2d(2, 8, 3, 2, 1), nn.ReLU()), nn.ReLU()
            self.fc = nn.Linear(8, 5)

        def once(self, x):
            return self.fc(self.act(self.act(self.features(x))).mean((2, 3)))

        def forward(self, x):
            return self.once(x) + self.once(x.flip(-1))

    with pytest.raises(SiteError, match=r"runs 'features' more than once .* at='features'"):
        squeezecam.attach(Augmented(), torch.rand(2, 2, 12, 12))
    assert squeezecam.attach(Augmented(), torch.rand(2, 2, 12, 12), at="features").places["map"].grid == (6, 6)


def test_a_model_that_does_not_pass_the_site_any_more_says_so():
    model, x = model_and_input()
    squeeze = squeezecam.attach(model, x)
    model.forward = lambda x: x.new_zeros(len(x), 5)
    with pytest.raises(SiteError, match="did not pass output of features"):
        squeeze.explain(x)


def test_one_tensor_may_stand_for_two_inputs() -> None:
    inputs = torch.rand(2, 2, 14, 14)
    squeeze = squeezecam.attach(TwoStreams().eval(), (inputs, inputs))
    assert list(squeeze.places) == ["face", "body"]
    assert squeeze.explain((inputs, inputs)).heatmap["body"].shape == (2, 14, 14)


@pytest.mark.parametrize("part", ["", "features"])
def test_a_model_compiled_in_place_is_run_eagerly_and_left_compiled(part: str) -> None:
    model, x = ConvNet().eval(), torch.rand(2, 2, 14, 14)

    def refused(*args: object) -> None:
        raise AssertionError("compiled code was run")

    inner = model.get_submodule(part)
    inner._compiled_call_impl = refused  # what model.compile() puts there
    with pytest.warns(SqueezeWarning, match="compiled before attaching"):
        squeeze = squeezecam.attach(model, x)
    squeeze.explain(x)
    assert inner._compiled_call_impl is refused
    assert {id(p) for p in squeeze.model.parameters()} == {id(p) for p in model.parameters()}


def test_complex_numbers_are_refused():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x)

    class Waves(ConvNet):
        def __init__(self):
            super().__init__()
            self.waves = Fourier()

        def forward(self, x):
            return self.fc(self.waves(self.features(x)).abs().mean((2, 3)))

    with pytest.raises(SiteError, match=r"output of waves.*complex.*at="):
        squeezecam.attach(Waves(), torch.randn(2, 2, 14, 18), at=squeezecam.Site("waves", layout="n c h w"))
