"""The locator: what the slow map is, that it is learned, and where it is read and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from patches import TwoStages as Net
from patches import patches
from squeezecam.errors import AdapterError, FitError, InputError
from squeezecam.fit.locating import KEPT, _varied, slow_map
from squeezecam.fit.pictures import Pictures


@pytest.fixture(scope="module")
def located() -> squeezecam.Squeeze:
    squeeze = squeezecam.attach(Net(), patches(2))
    squeeze.locate(list(patches(48).split(4)), epochs=4, seed=1)
    return squeeze


def test_the_finer_map_is_the_last_that_is_twice_as_fine() -> None:
    squeeze = squeezecam.attach(Net(), patches(2))
    place = squeeze.places["map"]
    assert place.grid == (4, 4)
    found = squeeze.finer
    assert found is not None
    assert (found.module, found.grid, found.channels) == ("fine", (8, 8), 3)


def test_the_slow_map_is_the_average_over_windows_by_hand() -> None:
    squeeze = squeezecam.attach(Net(), patches(2))
    work = Pictures(squeeze, None, None)
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, 0, 16:24, 8:16] = 1.0
    call, given = work.call(picture)
    found = slow_map(work, call, given, torch.tensor([0]))
    assert found.shape == (1, KEPT, KEPT)
    assert float(found.max()) == pytest.approx(1)
    row, column = divmod(int(found[0].argmax()), KEPT)
    assert 16 <= row * 32 / KEPT < 24
    assert 8 <= column * 32 / KEPT < 16
    assert float(found[0, :14].max()) == 0  # rows 0 to 8 of the picture, in no window beside the patch
    assert float(slow_map(work, call, given, torch.tensor([1])).max()) == 0
    mirrored = slow_map(work, call, given.flip(3), torch.tensor([0]))
    assert torch.allclose(mirrored, found.flip(2), atol=1e-5)


def test_it_learns_the_slow_map_and_leaves_the_model_alone() -> None:
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    squeeze = squeezecam.attach(net, patches(2))
    report = squeeze.locate(list(patches(48).split(4)), epochs=4)
    assert min(report.history) < report.history[0] - 0.005
    assert report.after > report.before
    assert report.kept > 0
    assert (report.samples, report.held_out, report.finer) == (44, 4, "fine")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert "correlation" in str(report)
    assert squeeze.locator() is not None


def test_focus_shows_it_at_the_finer_grid_in_one_pass(located: squeezecam.Squeeze) -> None:
    calls: list[int] = []
    handle = located.model.register_forward_hook(lambda *_: calls.append(1))
    pictures = patches(6, seed=7)
    explanation = located.explain(pictures, method="focus")
    handle.remove()
    assert len(calls) == 1
    assert explanation.raw.shape == (6, 32, 32)
    assert explanation.method == "focus, fitted locator"
    for n in range(6):
        row, column = divmod(int(explanation.heatmap[n].argmax()), 32)
        near = pictures[n, n % 3, max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        assert float(near.max()) == 1.0
    dark = located.explain(torch.zeros(1, 3, 32, 32), method="focus", target=0)
    assert float(dark.heatmap.max()) == 0


def test_other_maps_do_not_change(located: squeezecam.Squeeze) -> None:
    pictures = patches(3, seed=8)
    plain = squeezecam.attach(Net(), patches(2))
    for method in ("class", "published"):
        assert torch.equal(
            located.explain(pictures, method=method).heatmap, plain.explain(pictures, method=method).heatmap
        )


def test_as_module_and_an_adapter_give_the_same_map(located: squeezecam.Squeeze, tmp_path: Path) -> None:
    pictures = patches(3, seed=9)
    wanted = located.explain(pictures, method="focus").heatmap
    assert torch.allclose(located.as_module(method="focus")(pictures)[1], wanted, atol=1e-6)
    file = tmp_path / "a.squeeze.safetensors"
    located.save(file)
    again = squeezecam.load(file, Net(), patches(2))
    assert torch.equal(again.explain(pictures, method="focus").heatmap, wanted)
    assert "locator" in repr(again)


def test_a_damaged_locator_is_named(located: squeezecam.Squeeze, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = tmp_path / "a.squeeze.safetensors"
    located.save(file)
    with safe_open(str(file), framework="pt") as opened:
        about = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dict
    tensors.pop("locators.0.project.weight")
    save_file(tensors, str(file), metadata=about)
    with pytest.raises(AdapterError, match="locator is damaged"):
        squeezecam.load(file, Net(), patches(2))


def test_windows_of_pictures_and_slow_maps_stay_together() -> None:
    ramp = torch.linspace(0, 1, KEPT).expand(2, KEPT, KEPT)
    pictures = torch.nn.functional.interpolate(ramp[:, None], (56, 56)).expand(2, 3, 56, 56)
    torch.manual_seed(0)
    for _ in range(20):
        given, slow = _varied(pictures, ramp)
        seen = given[:, 0]
        both = torch.stack([seen.flatten(), slow.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.999


@pytest.mark.parametrize("batches", [2, 3, 6, 7])
def test_any_number_of_steps_will_do(batches: int) -> None:
    squeeze = squeezecam.attach(Net(), patches(2))
    assert len(squeeze.locate(list(patches(2 * batches).split(2)), epochs=1).history) == 2


def test_what_cannot_be_located_is_refused() -> None:
    squeeze = squeezecam.attach(Net(), patches(2))
    with pytest.raises(FitError, match="two batches"):
        squeeze.locate([patches(4)])

    class Shuffled(list[Tensor]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            self.reverse()
            return super().__iter__()

    with pytest.raises(FitError, match="another order"):
        squeeze.locate(Shuffled(patches(12).split(4)), epochs=1)
    assert squeeze.locator() is None
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    flat = squeezecam.attach(net, patches(2))
    with pytest.raises(InputError, match="the model has none before it"):
        flat.locate(list(patches(12).split(4)))
