"""From one forward pass to maps, statuses and samples."""

import pytest
import torch
from torch import nn

import oracle
import squeezecam
from conftest import ChannelsLast, ConvHead, ConvNet, InPlaceRelu, NormHead, Planted, TwoStreams, leave_identity
from squeezecam import vector
from squeezecam.errors import InputError, SiteError
from squeezecam.targets import class_targets

INPUTS = {1: (3, 2, 40), 2: (3, 2, 14, 18), 3: (3, 2, 6, 10, 12)}


def attached(model, inputs, apply="observe", fitted=True, **options):
    squeeze = squeezecam.attach(model.double(), inputs, apply=apply, **options)
    return leave_identity(squeeze) if fitted else squeeze


def example(rank=2, samples=3):
    return torch.randn(samples, *INPUTS[rank][1:], dtype=torch.float64)


# --- the published map ----------------------------------------------------------------------------------


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", [ConvNet, ChannelsLast])
def test_the_published_map_is_the_literal_one(kind, rank, apply):
    model, x = kind(rank), example(rank)
    squeeze = attached(model, x, apply)
    explained = squeeze.explain(x, method="published")
    with torch.no_grad():
        features = model.features(x) if kind is ConvNet else model.mix(model.stem(x).movedim(1, -1))
    for i in range(len(x)):
        expected = oracle.published(
            features[i], squeeze.block().reduce.weight, squeeze.block().expand.weight, tuple(x.shape[2:]),
            channel_axis=0 if kind is ConvNet else -1,
        )  # fmt: skip
        assert 0 < expected["kept"].sum() < len(expected["kept"])
        assert torch.equal(explained.kept[i], expected["kept"])
        for name in ("gates", "raw", "heatmap"):
            torch.testing.assert_close(getattr(explained, name)[i], expected[name], atol=1e-6, rtol=0)
    assert explained.method == "published"
    assert explained.status == ["ok"] * len(x)


def test_the_published_map_in_single_precision():
    model, x = ConvNet(), torch.randn(INPUTS[2])
    squeeze = leave_identity(squeezecam.attach(model, x))
    explained = squeeze.explain(x, method="published")
    block = squeeze.block()
    for i in range(len(x)):
        features = model.features(x[i : i + 1])[0].detach()
        expected = oracle.published(features, block.reduce.weight, block.expand.weight, tuple(x.shape[2:]))
        torch.testing.assert_close(explained.heatmap[i].double(), expected["heatmap"], atol=1e-5, rtol=0)


def test_features_negative_as_often_as_positive_are_read_by_their_contrast_and_the_result_says_so():
    model, x = NormHead(), example()
    squeeze = attached(model, x)
    explained = squeeze.explain(x, method="published")
    assert explained.method == "published, aggregate=contrast"
    features = model.features(x).detach()
    scaled = (features - features.mean((2, 3), keepdim=True)) * explained.gates[:, :, None, None]
    expected = torch.stack([scaled[i, explained.kept[i]].square().mean(0).sqrt() for i in range(len(x))])
    torch.testing.assert_close(explained.raw, expected)
    positive = squeeze.explain(x, method="published", aggregate="positive")
    scaled = features.relu() * explained.gates[:, :, None, None]
    expected = torch.stack([scaled[i, explained.kept[i]].mean(0) for i in range(len(x))])
    torch.testing.assert_close(positive.raw, expected)
    plain = squeeze.explain(x, method="published", aggregate="mean")
    assert plain.method == "published, aggregate=mean"
    assert not torch.allclose(plain.raw, explained.raw)


def test_contribution_ranks_channels_by_what_reaches_the_classifier():
    model, x = ConvNet(), example()
    explained = attached(model, x).explain(x, method="contribution")
    reach = explained.gates * model.features(x).mean((2, 3))
    assert torch.equal(explained.kept, vector.zscore(reach.detach()).mask)
    assert not torch.equal(explained.kept, vector.zscore(explained.gates).mask)


def test_contribution_squeezes_as_the_head_does():
    model, x = InPlaceRelu(), example()
    explained = attached(model, x, at="features").explain(x, method="contribution")
    reach = explained.gates * model.features(x).relu().mean((2, 3))
    assert torch.equal(explained.kept, vector.zscore(reach.detach()).mask)


# --- the class map --------------------------------------------------------------------------------------

HEADS = {
    "linear": ConvNet,
    "channels last": ChannelsLast,
    "norm-linear": NormHead,
    "conv": lambda: ConvHead(relu=False),
    "conv, relu": lambda: ConvHead(relu=True),
    "relu-mean": InPlaceRelu,
}


def constant_of(model: nn.Module) -> torch.Tensor:
    """What a logit has beside the sum over channels and positions, per class."""
    if isinstance(model, ConvHead):
        return torch.zeros(5, dtype=torch.float64)
    shift = model.fc.weight @ model.norm.bias if isinstance(model, NormHead) else 0
    return (model.fc.bias + shift).detach()


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("kind", HEADS)
def test_the_class_map_adds_up_to_the_logit(kind, apply):
    model, x = HEADS[kind](), example()
    squeeze = attached(model, x, apply, at="features" if kind == "relu-mean" else None)
    explained = squeeze.explain(x, method="class", target=[[0, 1, 2, 3, 4]] * len(x))
    assert explained.raw.shape[:2] == (len(x), 5)
    torch.testing.assert_close(explained.raw.mean((2, 3)) + constant_of(model), explained.output, atol=1e-9, rtol=0)
    own = model(x)
    assert torch.equal(explained.output, own) if apply == "observe" else not torch.allclose(explained.output, own)
    if kind != "conv, relu":
        assert (explained.raw < 0).any()  # signed
    assert (explained.heatmap >= 0).all()


def planted():
    """Two classes, three channels: channel 0 speaks for class 0 at (1, 2), 1 for class 1 at (3, 0), 2 for none."""
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 1, 2], x[0, 1, 3, 0], x[0, 2] = 4.0, 2.0, 9.0
    return Planted(torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0.5, 0.0])), x


def test_the_class_map_finds_planted_evidence():
    model, x = planted()
    explained = squeezecam.attach(model, x).explain(x, target=[[0, 1]])
    first, second = explained.raw[0]
    assert first[1, 2] == 4
    assert first[3, 0] == -2
    assert second[3, 0] == 2
    assert first.count_nonzero() == 2
    assert second.count_nonzero() == 1


def test_the_map_of_one_target_is_that_among_several():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    several = squeeze.explain(x, target=[[4, 1], [0, 2], [3, 3]])
    assert several.heatmap.shape == (3, 2, 14, 18)
    assert several.target.tolist() == [[4, 1], [0, 2], [3, 3]]
    assert torch.equal(squeeze.explain(x, target=[1, 2, 3]).heatmap, several.heatmap[:, 1])
    assert torch.equal(squeeze.explain(x[1:2], target=2).raw, several.raw[1:2, 1])


def test_several_targets_of_a_map_that_knows_no_classes():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    several = squeeze.explain(x, method="published", target=[[4, 1]] * 3)
    assert several.heatmap.shape == (3, 2, 14, 18)
    for k in range(2):
        assert torch.equal(several.heatmap[:, k], squeeze.explain(x, method="published").heatmap)


@pytest.mark.parametrize(
    "target",
    [2, [2, 2, 2], torch.tensor(2), torch.tensor([2, 2, 2], dtype=torch.uint8), lambda out: (out * 0).argmax(1) + 2],
)
def test_forms_of_a_target(target):
    model, x = ConvNet(), example()
    explained = attached(model, x).explain(x, target=target)
    assert explained.target.tolist() == [2, 2, 2]
    torch.testing.assert_close(explained.raw.mean((1, 2)) + model.fc.bias[2], explained.output[:, 2])


def test_what_is_shown_by_default():
    model, x = ConvNet(), example()
    assert attached(model, x, fitted=False).explain(x).method == "class"
    squeeze = attached(model, x)
    assert squeeze.explain(x).method == "class"  # it lies better, and has no need of the block
    assert squeeze.explain(x, target=1).method == "class"
    assert squeeze.explain(x, keep="all").method == "published, keep=all"  # rules choose among the gates
    squeeze.heads.clear()
    assert squeeze.explain(x).method == "published"


@pytest.mark.parametrize("method", ["published", "contribution"])
def test_a_class_asked_of_a_map_that_knows_none_is_a_doubt_even_where_the_method_is_named(method):
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    for target in (3, [0, 1, 2], [[0, 1]] * 3):
        status = squeeze.explain(x, method=method, target=target).status
        assert all(f"the same for every class: '{method}' knows no classes, method='class'" in line for line in status)
    assert squeeze.explain(x, method=method).status == ["ok"] * 3
    for options in ({"method": "class"}, {"method": method, "score": "class"}, {}):
        assert squeeze.explain(x, target=3, **options).status == ["ok"] * 3


def test_the_predicted_class_is_the_default():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    explained = squeeze.explain(x, method="class")
    assert torch.equal(explained.raw, squeeze.explain(x, target=explained.target).raw)
    assert torch.equal(explained.target, model(x).argmax(1))
    assert torch.equal(explained.scores, explained.output)


def test_of_scores_for_every_frame_the_mean_decides_and_not_the_loudest_frame():
    scores = torch.tensor([[[5.0, 2.0], [0.0, 2.0], [0.0, 2.0]], [[0.0, 1.0], [4.0, 1.0], [2.0, 1.0]]])
    # Means 5/3 against 2, and 2 against 1.
    found, several = class_targets(None, None, scores)
    assert found.tolist() == [[1], [0]]
    assert not several


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (5, r"from 0 to 4; got 5"),
        (-1, r"from 0 to 4; got -1"),
        ([0, 1], "batch of 3"),
        ([[0, 1]], "batch of 3"),
        ([[[0]]] * 3, "batch of 3"),
        ([[0], [1, 2], [3]], "as many for each sample"),
        ("cat", "got 'cat'"),
        (1.0, "float32"),
        (True, "bool"),
        (lambda out: out.amax(1), "integer tensor"),
        (lambda out: 3, "integer tensor"),
    ],
)
def test_targets_that_cannot_be_meant_are_refused(target, words):
    model, x = ConvNet(), example()
    with pytest.raises(InputError, match=words):
        attached(model, x).explain(x, target=target)


def test_the_class_map_needs_a_head_of_a_known_form():
    class Odd(ConvNet):
        def forward(self, x):
            return self.fc(self.features(x).mean((2, 3)).tanh())

    model, x = Odd(), example()
    squeeze = attached(model, x)
    assert squeeze.explain(x).method == "published"
    for method in (None, "published", "contribution"):
        assert squeeze.explain(x, method=method).status == ["ok"] * 3
        status = squeeze.explain(x, target=1, method=method).status
        assert all("the same for every class" in line and "squeeze.fit makes one" in line for line in status)
    for options in ({"method": "class"}, {"score": "class"}, {"aggregate": "class"}):
        with pytest.raises(InputError, match="use method='published' or 'contribution'"):
            squeeze.explain(x, **options)


# --- what may be chosen ---------------------------------------------------------------------------------


def test_score_rule_and_aggregation_are_chosen_one_by_one():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    explained = squeeze.explain(x, method="published", score="contribution", keep="topk:5", aggregate="energy")
    assert explained.method == "published, score=contribution, keep=topk:5, aggregate=energy"
    assert explained.kept.sum(1).tolist() == [5, 5, 5]
    features = model.features(x).detach() * explained.gates[:, :, None, None]
    expected = torch.stack([features[i, explained.kept[i]].square().mean(0).sqrt() for i in range(3)])
    torch.testing.assert_close(explained.raw, expected)


def test_the_class_map_of_chosen_channels_is_a_part_of_the_whole():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    part = squeeze.explain(x, target=1, keep="topk:6")
    features, weight = model.features(x).detach(), model.fc.weight[1].detach()
    expected = torch.einsum("nchw,c,nc->nhw", features, weight, part.kept.double())
    torch.testing.assert_close(part.raw, expected)
    evidence = weight * features.mean((2, 3))
    assert torch.equal(part.kept, vector.topk(evidence, 6).mask)


def test_size_and_upsampling():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    assert squeeze.explain(x).heatmap.shape == (3, 14, 18)
    assert squeeze.explain(x, size=30).heatmap.shape == (3, 30, 30)
    assert squeeze.explain(x, size=(5, 6), upsample="nearest").heatmap.shape == (3, 5, 6)
    for size in ((5,), (1, 2, 3), 0, (0, 4)):
        with pytest.raises(InputError, match="does not fit a map of 2 axes"):
            squeeze.explain(x, size=size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gradcam"}, "published, contribution, class"),
        ({"score": "weight"}, "gate, contribution, class"),
        ({"aggregate": "max"}, "mean, positive, energy, contrast, peaks, change$"),
        ({"upsample": "cubic"}, "bicubic, linear, nearest"),
        ({"keep": "best"}, "unknown keep rule"),
        ({"output": "gender"}, "no output 'gender'; it has output"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(options, words):
    model, x = ConvNet(), example()
    with pytest.raises(InputError, match=words):
        attached(model, x).explain(x, **options)


def test_a_names_error_comes_before_the_pass():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    model.forward = None  # a pass would fail in another way
    with pytest.raises(InputError, match="unknown method"):
        squeeze.explain(x, method="gradcam")


# --- per sample -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["published", "contribution", "class"])
@pytest.mark.parametrize("kind", HEADS)
def test_a_sample_alone_is_the_sample_in_a_batch(kind, method):
    model, x = HEADS[kind](), example(samples=5)
    x[2] *= 30  # a sample that would dominate anything shared
    squeeze = attached(model, x, "gate")
    together = squeeze.explain(x, method=method)
    for i in range(5):
        alone = squeeze.explain(x[i : i + 1], method=method)
        assert torch.equal(alone.kept[0], together.kept[i])
        assert alone.status[0] == together.status[i]
        for name in ("heatmap", "raw", "gates", "output"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[i], atol=1e-9, rtol=1e-12)


def test_values_are_not_normalised():
    model, x = planted()
    squeeze = squeezecam.attach(model, x)
    weak, strong = squeeze.explain(x, target=0), squeeze.explain(10 * x, target=0)
    torch.testing.assert_close(10 * weak.heatmap, strong.heatmap)


def test_indexing_slicing_and_iteration():
    model, x = ConvNet(), example()
    explained = attached(model, x).explain(x)
    assert len(explained) == 3
    for one, i in ((explained[1], 1), (explained[-1], 2)):
        assert len(one) == 1
        for name in ("heatmap", "raw", "gates", "kept", "output", "target", "scores"):
            assert torch.equal(getattr(one, name), getattr(explained, name)[i : i + 1])
    assert torch.equal(explained[1:].heatmap, explained.heatmap[1:])
    assert [torch.equal(one.raw[0], explained.raw[i]) for i, one in enumerate(explained)] == [True] * 3
    with pytest.raises(IndexError):
        explained[3]


def test_shown_are_the_facts_and_no_tensors():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    x[1] = torch.nan
    assert repr(squeeze.explain(x)).splitlines() == [
        "Explanation of 3 samples",
        "  method: class",
        "  heatmap: 14 x 18, on the native grid 7 x 9",
        f"  target: class {', '.join(str(t) for t in squeeze.explain(x).target.tolist())}",
        f"  status: 2 ok; 1 {squeeze.explain(x).status[1]}",
    ]
    several = repr(squeeze.explain(x[:1], method="class", target=[[2, 4]]))
    assert "Explanation of 1 sample\n" in several
    assert "target: class 2, 4\n" in several
    assert "heatmap: 2 x 14 x 18" in several
    many = repr(squeeze.explain(torch.cat([x] * 9), target=1))
    assert "target: class 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, and 17 more" in many
    assert len(many.splitlines()) == 5


def test_explanations_compare_by_identity():
    model, x = ConvNet(), example()
    explained = attached(model, x).explain(x)
    assert explained == explained
    assert explained != explained[:]


# --- what is doubtful -----------------------------------------------------------------------------------


def test_an_unfitted_block_is_said_to_be_so():
    model, x = ConvNet(), example()
    squeeze = attached(model, x, fitted=False)
    shown = squeeze.explain(x)
    assert shown.method == "class"
    assert all("not fitted" in line and "needs no fit" in line for line in shown.status)
    published = squeeze.explain(x, method="published")
    assert all("not fitted" in line and "select nothing" in line for line in published.status)
    assert published.kept.all()  # equal gates: the all-channel mean
    torch.testing.assert_close(published.raw, 0.5 * model.features(x).detach().mean(1))


def saturate(squeeze, share):
    """A block whose gates are 1 for a share of the channels and 0 for the others, whatever it sees."""
    block = squeeze.block()
    with torch.no_grad():
        block.reduce.weight.fill_(1000.0)
        block.expand.weight.fill_(-1e6)
        block.expand.weight[: round(share * block.channels)] = 1e6


def test_a_saturated_block_falls_back_and_says_so():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    saturate(squeeze, 0.5)
    explained = squeeze.explain(x, method="published")
    assert all("no channel passed the keep rule: the top 10%" in line for line in explained.status)
    assert (explained.kept.sum(1) == 16).all()
    saturate(squeeze, 1.0)
    assert all("all gates are equal" in line for line in squeeze.explain(x, method="published").status)
    saturate(squeeze, 0.25)
    assert squeeze.explain(x, method="published").status == ["ok"] * 3


@pytest.mark.parametrize("method", ["published", "contribution", "class"])
def test_nan_in_one_input_is_a_status_of_that_sample_only(method):
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    before = squeeze.explain(x, method=method)
    x[1, 0, 3, 3] = float("nan")
    explained = squeeze.explain(x, method=method)
    assert "the model's output is not finite (NaN or infinity" in explained.status[1]
    assert "the map is not finite (NaN or infinity" in explained.status[1]
    assert "blank" not in explained.status[1]
    for i in (0, 2):
        assert explained.status[i] == before.status[i]
        torch.testing.assert_close(explained.heatmap[i], before.heatmap[i])
    assert explained.heatmap[1].isnan().any()  # not dressed up as a blank


@pytest.mark.parametrize("where", ["features.0.weight", "fc.weight"])
def test_nan_in_the_weights_is_a_status(where):
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    with torch.no_grad():
        model.get_parameter(where).view(-1)[0] = float("nan")
    assert all("not finite" in line for line in squeeze.explain(x, target=0).status)


def test_a_model_with_nan_weights_attaches_and_says_so():
    model, x = ConvNet(), example()
    nn.init.constant_(model.fc.weight, float("nan"))
    assert all("not finite" in line for line in squeezecam.attach(model.double(), x).explain(x).status)


def test_a_class_without_evidence_is_no_silent_blank():
    model, x = planted()
    x[0, 0] = 0  # nothing speaks for class 0 any more
    squeeze = leave_identity(squeezecam.attach(model, x))
    assert "no position speaks for this class" in squeeze.explain(x, target=0).status[0]
    several = squeeze.explain(x, target=[[1, 0]])
    assert "no position speaks for class 0" in several.status[0]
    assert squeeze.explain(x, target=1).status == ["ok"]
    assert "no kept channel is active" in squeeze.explain(0 * x, method="published", keep="all").status[0]


def test_a_map_that_is_the_same_everywhere_is_said_to_be_so():
    model, x = planted()
    squeeze = leave_identity(squeezecam.attach(model, x))
    assert "the same everywhere" in squeeze.explain(torch.ones_like(x), target=1).status[0]


# --- inputs and precision -------------------------------------------------------------------------------


def test_half_precision_models_are_explained_in_single():
    model, x = ConvNet().to(torch.bfloat16), torch.randn(INPUTS[2]).to(torch.bfloat16)
    squeeze = leave_identity(squeezecam.attach(model, x))
    assert squeeze.block().reduce.weight.dtype == torch.float32
    explained = squeeze.explain(x, method="class")
    assert explained.heatmap.dtype == explained.gates.dtype == torch.float32
    assert torch.equal(explained.output, model(x))
    torch.testing.assert_close(
        explained.raw.mean((1, 2)) + model.fc.bias.float()[explained.target],
        explained.output.float().amax(1), atol=2e-2, rtol=2e-2,
    )  # fmt: skip


def test_autocast_reaches_the_model_and_not_the_map():
    model, x = ConvNet(), torch.randn(INPUTS[2])
    squeeze = leave_identity(squeezecam.attach(model, x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        explained = squeeze.explain(x, method="class")
        features = model.features(x).float()
    assert explained.output.dtype == torch.bfloat16
    expected = torch.einsum("nchw,nc->nhw", features, model.fc.weight[explained.target])
    torch.testing.assert_close(explained.raw, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("given", ["tuple", "keyword", "positional after a keyword example"])
def test_inputs_in_every_form_give_maps_of_the_inputs_size(given):
    model, x = ConvNet(), example()
    squeeze = attached(model, x if given == "tuple" else {"x": x})
    explained = squeeze.explain({"tuple": (x,), "keyword": {"x": x}}.get(given, x))
    assert explained.heatmap.shape == (3, 14, 18)
    assert torch.equal(explained.output, model(x))


def test_channels_last_pictures_and_frames_first_clips_keep_their_size():
    class Permuting(nn.Module):
        def __init__(self, inner, order):
            super().__init__()
            self.inner, self.order = inner, order

        def forward(self, x):
            return self.inner(x.permute(self.order)[:, :2])

    picture = torch.randn(3, 14, 18, 3, dtype=torch.float64)
    assert attached(Permuting(ConvNet(), (0, 3, 1, 2)), picture).explain(picture).heatmap.shape == (3, 14, 18)
    clip = torch.randn(3, 6, 3, 10, 12, dtype=torch.float64)
    assert attached(Permuting(ConvNet(3), (0, 2, 1, 3, 4)), clip).explain(clip).heatmap.shape == (3, 6, 10, 12)


def test_another_batch_size_and_another_picture_size_than_the_example():
    model, x = ConvNet(), example(samples=1)
    squeeze = attached(model, x)
    bigger = torch.randn(4, 2, 30, 22, dtype=torch.float64)
    explained = squeeze.explain(bigger, target=0)
    assert explained.heatmap.shape == (4, 30, 22)
    torch.testing.assert_close(explained.raw.mean((1, 2)) + model.fc.bias[0], explained.output[:, 0])


def test_features_of_another_width_than_in_the_probe_are_refused():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    model.features = ConvNet(channels=48).double().features
    model.fc = nn.Linear(48, 5).double()
    with pytest.raises(SiteError, match="48 channels"):
        squeeze.explain(x)


def test_an_input_without_batch_axis_is_refused_in_words():
    model, x = ConvNet(), example()
    with pytest.raises((SiteError, InputError), match=r"an axis is missing, .*the batch axis: try x\[None\]"):
        attached(nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(-3), model.fc), x).explain(x[0])


@pytest.mark.parametrize("method", ["published", "contribution", "class"])
def test_an_empty_batch_has_an_empty_explanation(method):
    model, x = ConvNet(), example()
    explained = attached(model, x).explain(x[:0], method=method)
    assert len(explained) == 0
    assert explained.heatmap.shape == (0, 14, 18)


# --- streams and interventions --------------------------------------------------------------------------


def test_two_streams_have_two_maps_each_at_its_inputs_size():
    model = TwoStreams().double()
    face, body = torch.randn(3, 2, 14, 14, dtype=torch.float64), torch.randn(3, 2, 20, 10, dtype=torch.float64)
    squeeze = attached(model, (face, body), at={"face": "face.features", "body": "body.features"})
    explained = squeeze.explain((face, body))
    assert explained.streams() == ["face", "body"]
    assert explained.heatmap["face"].shape == (3, 14, 14)
    assert explained.heatmap["body"].shape == (3, 20, 10)
    assert torch.equal(explained[2].heatmap["body"], explained.heatmap["body"][2:])
    block = squeeze.block("body")
    expected = oracle.published(
        model.body.features(body)[1].detach(), block.reduce.weight, block.expand.weight, (20, 10)
    )
    torch.testing.assert_close(explained.heatmap["body"][1], expected["heatmap"], atol=1e-6, rtol=0)


def test_removing_a_channel_takes_its_evidence_from_the_logit():
    model, x = ConvNet(), example()
    squeeze = attached(model, x)
    seen = {}

    def drop(stream, capture):
        seen[stream] = capture.features.shape
        return vector.intervene(torch.ones_like(capture.gates), torch.arange(32) == 7, "drop")

    changed = squeeze.predict(x, drop)
    lost = model.features(x).mean((2, 3))[:, 7:8] * model.fc.weight[:, 7]
    torch.testing.assert_close(model(x) - changed, lost)
    assert seen == {"map": (3, 32, 7, 9)}
    unchanged = squeeze.predict(x, lambda stream, capture: torch.ones_like(capture.gates))
    assert torch.equal(unchanged, model(x))


def test_pictures_are_kept_for_drawing_without_their_graph():
    model, x = planted()
    explained = squeezecam.attach(model, x).explain(x.requires_grad_())
    assert torch.equal(explained.pictures, x)
    assert not explained.pictures.requires_grad
    two_channels = example()
    assert attached(ConvNet(), two_channels).explain(two_channels).pictures is None
