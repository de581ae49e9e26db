"""Pictures changed at random: each in its own way, and no more than is said."""

from __future__ import annotations

import pytest
import torch

from squeezecam.fit import varying
from squeezecam.fit.varying import varied


def only(monkeypatch: pytest.MonkeyPatch, **shares: float) -> None:
    """All changes of the pictures switched off but these."""
    off = dict.fromkeys(("CROPPED", "STRETCHED", "TURNED", "GRAY", "BLURRED", "JITTER", "PASTED"), 0.0)
    for name, value in {**off, **shares}.items():
        monkeypatch.setattr(varying, name, value)


def test_without_changes_a_picture_is_itself_or_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    torch.manual_seed(0)
    pictures = torch.rand(40, 3, 10, 14)
    found = varied(pictures)
    whole = (found - pictures).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (found - pictures.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((whole | mirrored).all())
    assert 10 < int(mirrored.sum()) < 30


def test_windows_are_of_the_same_picture_at_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, CROPPED=0.5)
    torch.manual_seed(0)
    columns = torch.arange(32.0).expand(80, 3, 24, 32)
    rows = torch.arange(24.0)[:, None].expand(80, 3, 24, 32)
    across, down = varied(columns), varied(rows)
    assert across.shape == columns.shape
    steps = across[:, 0, 12].diff(dim=1)
    assert bool(((steps >= -1e-4).all(1) | (steps <= 1e-4).all(1)).all())  # in order, or mirrored
    assert bool((down[:, 0, :, 16].diff(dim=1) >= -1e-4).all())  # never upside down
    spans = across[:, 0, 12].amax(1) - across[:, 0, 12].amin(1)
    whole = spans > 31 - 1e-3
    assert 20 < int(whole.sum()) < 60
    assert 31 * 0.25 < float(spans.min()) < 31 * 0.5  # none is cut to under .3 of the side


def test_windows_lie_everywhere_and_keep_the_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, CROPPED=1.0)
    torch.manual_seed(0)
    place = torch.stack([torch.arange(32.0).expand(24, 32), torch.arange(24.0)[:, None].expand(24, 32)])
    found = varied(place.expand(200, 2, 24, 32))
    wide = found[:, 0].amax((1, 2)) - found[:, 0].amin((1, 2))
    high = found[:, 1].amax((1, 2)) - found[:, 1].amin((1, 2))
    assert torch.allclose(wide / 31, high / 23, atol=0.06)
    middles = found.mean((2, 3))
    assert float(middles[:, 0].min()) < 10 < 22 < float(middles[:, 0].max())
    assert float(middles[:, 1].min()) < 8 < 16 < float(middles[:, 1].max())


def test_some_are_turned_about_the_middle_and_no_farther_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, TURNED=0.5, FARTHEST=0.35)
    torch.manual_seed(0)
    place = torch.stack([torch.arange(48.0).expand(24, 48), torch.arange(24.0)[:, None].expand(24, 48)])
    found = varied(place.expand(200, 2, 24, 48))[:, :, 10:14, 22:26]
    along = found[:, :, 1, 2] - found[:, :, 1, 1]  # one pixel to the right, in pixels of the picture
    assert torch.allclose(along.norm(dim=1), torch.ones(200), atol=1e-3)  # nothing is sheared
    angles = torch.atan2(along[:, 1], along[:, 0].abs())
    assert 60 < int((angles.abs() > 1e-3).sum()) < 140
    assert 0.3 < float(angles.abs().max()) <= 0.35 + 1e-3
    assert torch.allclose(found.mean((2, 3)), torch.tensor([23.5, 11.5]).expand(200, 2), atol=1e-3)


def test_windows_may_be_wider_or_higher_by_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, CROPPED=1.0, STRETCHED=0.14)
    torch.manual_seed(0)
    place = torch.stack([torch.arange(64.0).expand(64, 64), torch.arange(64.0)[:, None].expand(64, 64)])
    found = varied(place.expand(200, 2, 64, 64))
    wide = found[:, 0].amax((1, 2)) - found[:, 0].amin((1, 2))
    high = found[:, 1].amax((1, 2)) - found[:, 1].amin((1, 2))
    logs = (wide / high).log()
    assert float(logs.min()) < -0.2
    assert float(logs.max()) > 0.2
    assert float(logs.abs().max()) < 2 * 0.14 + 0.02


def test_some_are_gray_and_some_blurred(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pictures = torch.rand(60, 3, 90, 90)
    only(monkeypatch, GRAY=0.5)
    found = varied(pictures)
    gray = (found - found.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    assert 15 < int(gray.sum()) < 45
    assert torch.allclose(found.mean(1).flatten(1).mean(1), pictures.mean((1, 2, 3)), atol=1e-4)
    only(monkeypatch, BLURRED=0.5)
    found = varied(pictures)
    spread = found.flatten(1).std(1) / pictures.flatten(1).std(1)
    blurred = spread < 0.6  # two boxes of three pixels leave under a fifth of white noise's deviation
    assert 15 < int(blurred.sum()) < 45
    assert torch.allclose(spread[~blurred], torch.ones(int((~blurred).sum())), atol=1e-3)
    inside = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(pictures, 3, 1), 3, 1)
    for n in torch.nonzero(blurred)[:, 0].tolist():
        assert min(float((found[n, :, 2:-2, 2:-2] - one).abs().max()) for one in (inside[n], inside[n].flip(2))) < 1e-4


def test_contrast_and_colour_differ_from_picture_to_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, JITTER=0.2)
    torch.manual_seed(1)
    pictures = torch.rand(4, 3, 8, 8)
    found = varied(pictures)
    slopes = []
    for n in range(4):
        for channel in range(3):
            before = pictures[n, channel].flatten()
            after = min((found[n, channel], found[n, channel].flip(1)), key=lambda x: (x - pictures[n, channel]).std())
            both = torch.stack([before, after.flatten()])
            assert float(torch.corrcoef(both)[0, 1]) == pytest.approx(1, abs=1e-5)
            slopes.append(float(after.std() / pictures[n, channel].std()))
    assert min(slopes) >= 0.8 - 1e-4
    assert max(slopes) <= 1.2 + 1e-4
    assert max(slopes) - min(slopes) > 0.05


def test_some_hold_the_whole_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, PASTED=0.5)
    torch.manual_seed(0)
    ramp = torch.linspace(0, 0.5, 32).expand(1, 3, 24, 32)
    pictures = torch.arange(40.0).view(40, 1, 1, 1) + ramp
    found = varied(pictures)
    strange = found.floor() != torch.arange(40.0).view(40, 1, 1, 1)
    shares = strange[:, 0].float().mean((1, 2))
    assert 8 < int((shares > 0).sum()) < 32
    assert float(shares[shares > 0].min()) > 0.3**2 * 0.8
    assert float(shares.max()) < 0.75**2 * 1.2
    for n in torch.nonzero(shares)[:, 0].tolist():
        other = found[n, 0][strange[n, 0]] - (n - 1) % 40
        assert float(other.min()) < 0.05  # from one rim of the other to the other
        assert float(other.max()) > 0.45
        rows, columns = strange[n, 0].any(1), strange[n, 0].any(0)
        assert int(strange[n, 0].sum()) == int(rows.sum()) * int(columns.sum())  # a rectangle


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pictures_in_half_precision_are_changed_as_those_in_float32(dtype: torch.dtype) -> None:
    pictures, made = torch.rand(8, 3, 32, 32).to(dtype), []
    for given in (pictures, pictures.float()):
        torch.manual_seed(3)
        made.append(varied(given))
    assert made[0].dtype == dtype
    assert torch.allclose(made[0].float(), made[1], atol=1e-2)


def test_the_same_seed_changes_pictures_in_the_same_way() -> None:
    pictures = torch.rand(6, 3, 16, 16)
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(varied(pictures))
    assert torch.equal(*made)
