import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezecam.errors import InputError
from squeezecam.metrics.predict import class_scores, scores_in_batches
from squeezecam.metrics.ranking import first_pixels, pixel_counts, pixel_ranks


def test_ranks_by_hand_with_ties_in_row_major_order():
    maps = torch.tensor([[[1.0, 3.0], [3.0, 2.0]]])
    # 3 at (0, 1) comes before 3 at (1, 0); then 2, then 1.
    assert pixel_ranks(maps).tolist() == [[[3, 0], [1, 2]]]
    assert first_pixels(pixel_ranks(maps), 2).tolist() == [[[False, True], [True, False]]]


def test_scattered_ties_favour_no_part_of_the_picture():
    maps = torch.zeros(2, 20, 20)
    maps[:, 4:6, 4:6] = 1.0
    ranks = pixel_ranks(maps, scattered=True)
    assert sorted(ranks[0, 4:6, 4:6].flatten().tolist()) == [0, 1, 2, 3]  # what differs keeps its order
    assert torch.equal(ranks[0], ranks[1])
    early = first_pixels(ranks, 200)[0].float()
    assert abs(early[:10].mean() - early[10:].mean()) < 0.15  # row by row it would be 1 against 0
    assert abs(early[:, :10].mean() - early[:, 10:].mean()) < 0.15
    assert torch.equal(pixel_ranks(maps[1:], scattered=True)[0], ranks[1])


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_any_number_of_axes_and_a_count_per_sample(shape):
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    count = torch.tensor([0, 2, 5])
    chosen = first_pixels(pixel_ranks(maps), count).flatten(1)
    assert chosen.sum(dim=1).tolist() == [0, 2, 5]
    flat = maps[2].flatten()
    assert flat[chosen[2]].min() > flat[~chosen[2]].max()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_ranks_are_a_permutation_in_falling_order(values):
    maps = torch.tensor([values], dtype=torch.float32)
    ranks = pixel_ranks(maps)[0]
    assert sorted(ranks.tolist()) == list(range(len(values)))
    # Python's sort is stable too: an independent statement of the rule for ties.
    expected = sorted(range(len(values)), key=lambda i: -values[i])
    assert ranks.argsort().tolist() == expected


def test_counts_round_halves_up_and_refuse_nonsense():
    assert pixel_counts(10, torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist() == [0, 3, 5, 10]
    with pytest.raises(InputError, match="between 0 and 1"):
        pixel_counts(10, torch.tensor([1.5]))


def test_logits_get_a_softmax_and_probabilities_do_not():
    outputs = torch.tensor([[0.0, 0.0], [0.0, 1.0986123]])
    target = torch.tensor([0, 1])
    # softmax(0, 0) = (1/2, 1/2); softmax(0, ln 3) = (1/4, 3/4)
    torch.testing.assert_close(class_scores(outputs, target), torch.tensor([0.5, 0.75]))
    assert class_scores(torch.tensor([[0.2, 0.8]]), torch.tensor([1]), "probabilities").item() == pytest.approx(0.8)
    assert class_scores(outputs * 10, target, "scores").tolist() == pytest.approx([0.0, 10.986123])
    with pytest.raises(InputError, match="outputs='logits'"):
        class_scores(outputs, target, "probabilities")
    # 1 / (1 + 1/3) = 3/4, the other label notwithstanding
    assert class_scores(torch.tensor([[9.0, 1.0986123]]), torch.tensor([1]), "sigmoid").item() == pytest.approx(0.75)
    assert class_scores(torch.tensor([[1 + 2e-7]]), torch.tensor([0]), "probabilities").item() == 1


def test_a_softmax_of_one_value_is_refused():
    with pytest.raises(InputError, match=r"outputs='sigmoid'.*outputs='scores'"):
        class_scores(torch.zeros(2, 1), torch.tensor([0, 0]))
    assert class_scores(torch.zeros(2, 1), torch.tensor([0, 0]), "sigmoid").tolist() == [0.5, 0.5]


def test_an_unknown_kind_of_outputs_is_refused():
    with pytest.raises(InputError, match=r"outputs is 'softmax', expected 'logits', 'sigmoid'"):
        class_scores(torch.zeros(2, 3), torch.tensor([0, 0]), "softmax")


def test_wrong_outputs_and_targets_are_named():
    with pytest.raises(InputError, match=r"\(2, 3, 4\)"):
        class_scores(torch.zeros(2, 3, 4), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="classes from 0 to 2"):
        class_scores(torch.zeros(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_do_not_change_the_scores_and_no_graph_is_kept(batch_size):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return batch

    target = torch.tensor([0, 1, 2, 0, 1])
    scores = scores_in_batches(predict, lambda a, b: inputs[a:b], target, outputs="scores", batch_size=batch_size)
    assert torch.equal(scores, inputs.detach()[torch.arange(5), target])
    assert not scores.requires_grad
    assert max(sizes) <= batch_size
    assert sum(sizes) == 5
