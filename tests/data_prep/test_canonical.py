"""The gate by the header, and sizes after shrinking."""

from __future__ import annotations

import pytest

from sciencessl.data_prep.canonical import Canonical, check_size, divisor, smaller_size
from sciencessl.data_prep.refused import Refused


@pytest.mark.parametrize(("size", "options", "reason", "detail"), [
    ((10_001, 10_000), {}, "too-large", "10001 x 10000 px, the budget is 100 million pixels"),
    ((3, 4), {"max_pixels": 11, "min_px": 1}, "too-large", "3 x 4 px, the budget is 1.1e-05 million pixels"),
    ((65_535, 100), {}, "too-large", "65535 x 100 px, sides are 65500 at most"),
    ((100, 7), {}, "too-small", "100 x 7 px, min_px is 8"),
    ((301, 100), {"max_aspect": 3.0}, "too-long", "301 x 100 px, max_aspect is 3"),
    ((100, 301), {"max_aspect": 3.0}, "too-long", "100 x 301 px, max_aspect is 3"),
])
def test_images_are_refused_by_their_size(size: tuple[int, int], options: dict, reason: str, detail: str) -> None:
    with pytest.raises(Refused) as refused:
        check_size(size, Canonical(**options))
    assert (refused.value.reason, refused.value.detail) == (reason, detail)


def test_what_just_fits_passes() -> None:
    check_size((10_000, 10_000), Canonical())
    check_size((8, 65_500), Canonical())
    check_size((300, 100), Canonical(max_aspect=3.0))


def test_the_short_side_shrinks_to_what_is_wanted_and_never_grows() -> None:
    assert smaller_size((400, 533), Canonical(256)) == (256, 341)
    assert smaller_size((533, 400), Canonical(256)) == (341, 256)
    assert smaller_size((256, 9000), Canonical(256)) is None
    assert smaller_size((4000, 3000), Canonical()) is None


@pytest.mark.parametrize(("short", "expected"), [(511, 1), (512, 2), (1023, 2), (1024, 4), (2048, 8), (50_000, 8)])
def test_division_leaves_the_wanted_side(short: int, expected: int) -> None:
    assert divisor((short, 60_000), Canonical(256)) == expected
    assert divisor((short, 60_000), Canonical()) == 1
