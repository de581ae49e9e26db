"""``as_module``: the explanation as a plain function of the inputs."""

import copy
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import squeezecam
from conftest import (
    ChannelsLast,
    ConvHead,
    ConvNet,
    InPlaceRelu,
    NormHead,
    Structured,
    TwoStreams,
    hooks_of,
    leave_identity,
)
from squeezecam.errors import InputError, SqueezeWarning

MODELS = {"linear": ConvNet, "last": ChannelsLast, "norm": NormHead, "conv": ConvHead, "in-place": InPlaceRelu}


def attached(model, apply="observe", **options):
    x = torch.randn(3, 2, 14, 18)
    return leave_identity(squeezecam.attach(model.eval(), x, apply=apply, **options)), x


@pytest.mark.parametrize("method", ["published", "contribution", "class"])
@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_returns_what_explain_returns(kind, apply, method):
    squeeze, x = attached(MODELS[kind](), apply)
    explained = squeeze.explain(x, method=method)
    with torch.no_grad():
        output, heatmap, gates = squeeze.as_module(method)(x)
    assert torch.equal(output, explained.output)
    assert torch.equal(gates, explained.gates)
    torch.testing.assert_close(heatmap, explained.heatmap, atol=1e-6, rtol=1e-6)


def test_the_default_method_and_a_fixed_target():
    squeeze, x = attached(ConvNet())
    torch.testing.assert_close(squeeze.as_module()(x)[1], squeeze.explain(x).heatmap)
    torch.testing.assert_close(squeeze.as_module(target=3)(x)[1], squeeze.explain(x, target=3).heatmap)


@pytest.mark.parametrize("by_keyword", [False, True])
def test_the_map_is_that_of_the_input_where_the_site_is_a_modules_input(by_keyword):
    class Functional(ConvNet):
        """The map is nobody's output."""

        def __init__(self):
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            features = self.features(x) * 2
            return self.fc((self.pool(input=features) if by_keyword else self.pool(features)).flatten(1))

    squeeze, x = attached(Functional(), "gate", at=squeezecam.Site("pool", "input"))
    torch.testing.assert_close(squeeze.as_module("published")(x)[1], squeeze.explain(x, method="published").heatmap)


def test_an_activation_in_place_after_the_site_does_not_reach_the_map():
    class InPlaceSilu(InPlaceRelu):
        def forward(self, x):
            return self.fc(nn.functional.silu(self.features(x), inplace=True).mean((2, 3)))

    squeeze, x = attached(InPlaceSilu(), at="features")
    expected = squeeze.explain(x, method="published").heatmap
    torch.testing.assert_close(squeeze.as_module("published")(x)[1], expected)


def test_it_falls_back_as_explain_does():
    squeeze, x = attached(ConvNet())
    with torch.no_grad():  # half of the gates at 1: none passes the z-score rule
        squeeze.block().reduce.weight.fill_(1000)
        squeeze.block().expand.weight.fill_(-1000)
        squeeze.block().expand.weight[:16] = 1000
    explained = squeeze.explain(x, method="published")
    assert explained.kept.sum(1).tolist() == [16, 16, 16]
    torch.testing.assert_close(squeeze.as_module("published")(x)[1], explained.heatmap)


def test_the_model_is_not_hooked_and_its_parameters_are_shared():
    squeeze, x = attached(ConvNet())
    plain = squeeze.as_module()
    assert hooks_of(squeeze.model) == 0
    with torch.no_grad():
        squeeze.model.fc.weight.mul_(2)
        squeeze.block().expand.weight.mul_(2)
    torch.testing.assert_close(plain(x)[1], squeeze.explain(x).heatmap)
    assert torch.equal(plain(x)[2], squeeze.explain(x).gates)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plain: pickle.loads(pickle.dumps(plain))])
@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_copies_work_and_stand_alone(apply, copied):
    squeeze, x = attached(ConvNet(), apply)
    plain = squeeze.as_module()
    other = copied(plain)
    for a, b in zip(plain(x), other(x), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        other.block.expand.weight.zero_()
    assert squeeze.fitted
    assert torch.equal(other(x)[2], torch.full((3, 32), 0.5))


def test_structured_outputs_and_keyword_inputs():
    squeeze, x = attached(Structured("dict"))
    output, heatmap, _ = squeeze.as_module()(x=x)
    assert set(output) == {"logits", "extra"}
    torch.testing.assert_close(heatmap, squeeze.explain(x).heatmap)


def test_the_output_to_explain_can_be_named():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.kind = ConvNet(), nn.Linear(32, 3)

        def forward(self, x):
            pooled = self.inner.features(x).mean((2, 3))
            return {"what": self.inner.fc(pooled), "kind": self.kind(pooled)}

    squeeze, x = attached(Both())
    for name in ("what", "kind"):
        output, heatmap, _ = squeeze.as_module("class", output=name)(x)
        assert set(output) == {"what", "kind"}
        torch.testing.assert_close(heatmap, squeeze.explain(x, method="class", output=name).heatmap)
    with pytest.raises(InputError, match="what"):
        squeeze.as_module("class", output="which")


def test_a_block_that_is_not_fitted_is_warned_of():
    squeeze = squeezecam.attach(ConvNet().eval(), torch.randn(3, 2, 14, 18))
    with pytest.warns(SqueezeWarning, match="as_module: block not fitted: its gates select nothing"):
        plain = squeeze.as_module("published")
    assert plain.doubts == ["block not fitted: its gates select nothing, fit it first"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squeeze.as_module("class")


@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_it_exports(apply):
    squeeze, x = attached(ConvNet(), apply)
    for method in ("published", "class"):
        with torch.no_grad():
            plain = squeeze.as_module(method)
            program = torch.export.export(plain, (x,), strict=False)
            for a, b in zip(program.module()(x), plain(x), strict=True):
                torch.testing.assert_close(a, b)


def test_what_it_cannot_serve_is_refused():
    squeeze, _ = attached(ConvNet())
    with pytest.raises(InputError, match="expected one of published, contribution, class"):
        squeeze.as_module("gradcam")
    for target in (5, -1):
        with pytest.raises(InputError, match=r"lie in 0\.\.4"):
            squeeze.as_module(target=target)
    inputs = (torch.randn(2, 2, 14, 14), torch.randn(2, 2, 20, 10))
    two = squeezecam.attach(TwoStreams(), inputs, at={"face": "face.features", "body": "body.features"})
    with pytest.raises(InputError, match="one stream, this model has 2: face, body"):
        two.as_module()

    class Odd(ConvNet):
        def forward(self, x):
            return self.fc(self.features(x).mean((2, 3)).tanh())

    odd, _ = attached(Odd())
    with pytest.raises(InputError, match="use method='published'"):
        odd.as_module("class")


@pytest.mark.parametrize("method", ["class", "published"])
def test_threads_get_their_own_maps(method):
    squeeze, _ = attached(ConvNet())
    plain = squeeze.as_module(method)
    pictures = [torch.randn(2, 2, 14, 18) for _ in range(4)]
    with torch.no_grad():
        expected = [plain(x)[1] for x in pictures]
    wrong = []

    def work(index):
        with torch.no_grad():
            wrong.extend(index for _ in range(60) if not torch.equal(plain(pictures[index])[1], expected[index]))

    def waiting(module, args):
        time.sleep(0.001)  # between the map and its use another thread gets its turn

    plain.model.fc.register_forward_pre_hook(waiting)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert wrong == []
    assert plain._box == {}
    assert plain._batch == {}
