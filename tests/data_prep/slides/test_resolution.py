"""Where a pixel scale is from, what may be asked for, and which level serves it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.resolution import RECIPES, Target, parse_target, serving_level, slide_mpp
from sciencessl.data_prep.slides.slide import Mpp
from sciencessl.errors import ConfigError
from tests.data_prep.slides.slides_in_memory import Pair, slide_info


def square(mpp: float) -> Mpp:
    return Mpp(mpp, mpp, "the test")


def test_the_first_that_says_a_scale_wins_and_is_named() -> None:
    info, vendor = slide_info((100, 100), (0.25, 0.26)), {"flat": 0.4}
    assert slide_mpp(info, 0.2, 0.3, vendor) == Mpp(0.2, 0.2, "--slide-mpp")
    assert slide_mpp(info, None, 0.3, vendor) == Mpp(0.3, 0.3, "manifest")
    assert slide_mpp(info, None, None, vendor) == Mpp(0.4, 0.4, "--vendor-mpp flat")
    # A defect elsewhere: one axis stands for both, rounded.
    assert slide_mpp(info, None, None, {"aperio": 0.4}) == Mpp(0.25, 0.26, "the test")


def test_a_slide_without_a_scale_is_refused_with_a_hint() -> None:
    with pytest.raises(Refused, match="no-mpp: the file says no um/px; give its um/px with --slide-mpp") as refused:
        slide_mpp(slide_info((100, 100), None), None, None, {})
    assert refused.value.reason == "no-mpp"
    assert slide_mpp(slide_info((100, 100), None), None, 0.5, {}).x == 0.5


@pytest.mark.parametrize(("mpp", "said"), [
    ((352.8, 352.8), "the test says 352.8 x 352.8 um/px, outside 0.05 to 40; give its um/px with --slide-mpp"),
    ((0.0, 0.0), "the test says 0 x 0 um/px"), ((0.25, float("nan")), "0.25 x nan"), ((-0.25, -0.25), "-0.25"),
    ((0.25, 0.31), "whose axes differ by more than 20%; give its um/px"),
])
def test_a_scale_that_no_scanner_has_is_refused_with_a_hint(mpp: Pair, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        slide_mpp(slide_info((100, 100), mpp), None, None, {})
    assert refused.value.reason == "strange-mpp"
    assert slide_mpp(slide_info((100, 100), mpp), None, None, {"flat": 0.5}).y == 0.5


def test_a_strange_scale_that_a_person_gave_names_where() -> None:
    with pytest.raises(Refused, match="strange-mpp: manifest says 250 x 250 um/px"):
        slide_mpp(slide_info((100, 100)), None, 250.0, {})


def test_targets_are_read_in_every_form() -> None:
    assert parse_target("0.5", 256) == Target(0.5, 256, False)
    assert parse_target(" Native ", 256, None, True) == Target(None, 256, True)
    assert [parse_target(power, 256).mpp for power in ("40x", "20X", "12.5x")] == [0.25, 0.5, 0.8]
    assert parse_target("0.5", 256, 100.0).tile_px == 200
    assert parse_target("0.5", 256).field_um == 128
    assert parse_target("native", 256).field_um is None


def test_200_um_at_0_39_are_513_pixels_and_the_recipe_has_512() -> None:
    assert parse_target("0.39", 256, 200.0).tile_px == 513  # 512.82
    assert RECIPES["ptcga200"].tile_px == 512
    assert RECIPES["ptcga200"].field_um == pytest.approx(199.68)


@pytest.mark.parametrize("word", ["", "half", "0", "0x", "-1", "nan", "inf", "1e-3", "50", "20xx", "0.5um"])
def test_a_target_that_cannot_be_read_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"mpp is '.*'; expected 0.05 to 40 um/px such as `0.5`.*alias.*`native`"):
        parse_target(word, 256)


@pytest.mark.parametrize(("arguments", "said"), [
    (("0.5", 4), "tile_px is 4; expected a side of 8 to 2048 pixels"),
    (("0.5", 5000), "tile_px is 5000"),
    (("0.5", 256, 1.0), r"tile_px is 2 \(1 um at 0.5 um/px\)"),
    (("0.5", 256, 1e4), r"tile_px is 20000 \(10000 um at 0.5 um/px\)"),
    (("0.5", 256, 0.0), "tile_um is 0; expected the side of a tile in um, above 0"),
    (("0.5", 256, float("inf")), "tile_um is inf"),
    (("native", 256, 128.0), "tiles would have another side for each slide"),
])
def test_a_side_outside_its_range_is_refused(arguments: tuple[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_target(*arguments)


def test_a_level_within_ten_percent_is_stored_as_it_is() -> None:
    info = slide_info((4000, 4000), None, (1, 4.0, 16.0))
    serving = serving_level(info, square(0.2325), Target(0.25, 256))
    assert (serving.level, serving.step, serving.mpp) == (0, (1.0, 1.0), (0.2325, 0.2325))
    assert serving_level(info, square(0.2325), Target(1.0, 256)).level == 1
    assert serving_level(info, square(0.225), Target(0.25, 256)).step == (1.0, 1.0)  # exactly 10 %
    assert serving_level(info, square(0.2249), Target(0.25, 256)).step != (1.0, 1.0)


def test_an_exact_scale_takes_only_the_same_scale_as_it_is() -> None:
    info = slide_info((4000, 4000), None, (1, 4.0))
    assert serving_level(info, square(0.2498), Target(0.25, 256, exact=True)).step == (1.0, 1.0)
    serving = serving_level(info, square(0.2325), Target(0.25, 256, exact=True))
    assert (serving.level, serving.mpp) == (0, (0.25, 0.25))
    assert serving.step == pytest.approx((0.25 / 0.2325, 0.25 / 0.2325))


def test_the_nearest_of_several_levels_is_taken_as_it_is() -> None:
    info = slide_info((4000, 4000), None, (1, 1.08, 1.16))
    assert serving_level(info, square(0.46), Target(0.5, 256)).level == 1
    assert serving_level(info, square(0.5), Target(0.5, 256)).level == 0


def test_shrinking_starts_from_the_coarsest_level_that_is_fine_enough() -> None:
    info = slide_info((40_000, 40_000), None, (1, 4.0, 16.0, 64.0))
    levels = [serving_level(info, square(0.25), Target(mpp, 256)).level for mpp in (0.5, 0.8, 1.2, 3.9, 4.5, 30.0)]
    assert levels == [0, 0, 1, 2, 2, 3]
    assert serving_level(info, square(0.25), Target(2.0, 256)).step == (2.0, 2.0)


def test_fractional_downsamples_are_honoured() -> None:
    # A defect elsewhere: the downsample is cut to a whole number, so that 3.9998 becomes 3.
    for down in (3.9998, 4.016, 8.086):
        serving = serving_level(slide_info((40_000, 40_000), None, (1, down)), square(0.25), Target(3.0, 256))
        assert serving.level == 1
        assert serving.step[0] == pytest.approx(3.0 / (0.25 * down), rel=1e-12)


def test_each_axis_has_its_own_ratio() -> None:
    # A defect elsewhere: the scale of one axis serves both.
    serving = serving_level(slide_info((4000, 4000)), Mpp(0.25, 0.24, "the test"), Target(0.5, 256))
    assert serving.step == pytest.approx((2.0, 0.5 / 0.24))


def test_pixels_that_are_not_square_are_never_stored_as_they_are() -> None:
    info = slide_info((4000, 4000))
    assert serving_level(info, Mpp(0.48, 0.5, "the test"), Target(0.5, 256)).step == (1.0, 1.0)  # 4 %
    assert serving_level(info, Mpp(0.46, 0.5, "the test"), Target(0.5, 256)).step == pytest.approx((0.5 / 0.46, 1.0))
    assert serving_level(info, Mpp(0.46, 0.5, "the test"), Target(None, 256)).step == (1.0, 1.0)  # asked for


def test_nothing_is_enlarged_silently() -> None:
    info = slide_info((4000, 4000))
    with pytest.raises(Refused, match=r"too-coarse: level 0 has 0.5 x 0.5 um/px and 0.25 are asked for; .*--upsample"):
        serving_level(info, square(0.5), Target(0.25, 256))
    assert serving_level(info, square(0.5), Target(0.25, 256), upsample=True).step == (0.5, 0.5)
    serving_level(info, square(0.26), Target(0.25, 256))
    with pytest.raises(Refused, match="too-coarse"):
        serving_level(info, square(0.26), Target(0.25, 256, exact=True))


@settings(max_examples=200, deadline=None)
@given(
    mpp=st.floats(0.1, 2), skew=st.floats(0.85, 1.15), wanted=st.floats(0.05, 10), exact=st.booleans(),
    downs=st.lists(st.floats(1.3, 40), max_size=4),
)
def test_what_is_stored_has_the_scale_that_it_is_said_to_have(
    mpp: float, skew: float, wanted: float, exact: bool, downs: list[float]
) -> None:
    info = slide_info((100_000, 100_000), None, (1.0, *sorted(downs)))
    scale = Mpp(mpp, mpp * skew, "the test")
    try:
        serving = serving_level(info, scale, Target(wanted, 256, exact))
    except Refused:
        assert max(scale.x, scale.y) > wanted
        return
    down = info.levels[serving.level].downsample
    stored = (scale.x * down[0] * serving.step[0], scale.y * down[1] * serving.step[1])
    np.testing.assert_allclose(stored, serving.mpp, rtol=1e-9)
    np.testing.assert_allclose(stored, wanted, rtol=1.001e-3 if exact else 0.1001)
    assert min(serving.step) >= 0.999
