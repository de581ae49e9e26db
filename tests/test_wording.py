"""Numbers and names in sentences."""

from __future__ import annotations

from squeezecam.wording import number_of, shortened


def test_one_is_singular_and_none_is_not() -> None:
    assert [number_of(count, "frame") for count in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]


def test_a_long_name_keeps_its_beginning_and_its_number() -> None:
    assert shortened("photo_0017", 10) == "photo_0017"
    assert shortened("a_very_long_photo_0017", 13) == "a_ver..._0017"
    assert len(shortened("a_very_long_photo_0017", 10)) == 10
