"""How large images become: whatever is asked, of whatever size."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some

from libs.common.imaging.config import Resize, ResizeMode
from libs.common.imaging.sizes import Layout, Region, Size, layout

SIDES = some.integers(1, 16_384)
SIZES = some.builds(Size, SIDES, SIDES)
MAYBE = some.none() | SIDES
SHARES = some.floats(0, 1)


@some.composite
def resizes(draw: some.DrawFn) -> Resize:
    mode = draw(some.sampled_from(get_args(ResizeMode)))
    given_sides = MAYBE if mode == "fit" else SIDES
    return Resize(
        mode=mode,
        width=draw(given_sides),
        height=draw(given_sides),
        max_width=draw(MAYBE),
        max_height=draw(MAYBE),
        enlarge=draw(some.booleans()),
        focal_x=draw(SHARES),
        focal_y=draw(SHARES),
    )


def _near(left: float, right: float, within: float = 1.0) -> bool:
    return abs(left - right) <= within + 1e-6


@given(SIZES, resizes())
def test_never_larger_than_asked(source: Size, resize: Resize) -> None:
    plan = layout(source, resize)
    for side, asked, most in (
        (plan.canvas.width, resize.width, resize.max_width),
        (plan.canvas.height, resize.height, resize.max_height),
    ):
        assert 1 <= side <= min(asked or 16_384 * 16_384, most or 16_384 * 16_384)
    assert plan.image.width <= plan.canvas.width
    assert plan.image.height <= plan.canvas.height


@given(SIZES, resizes())
def test_never_enlarged_unless_asked(source: Size, resize: Resize) -> None:
    plan = layout(source, resize)
    if not resize.enlarge:
        assert plan.image.width <= plan.region.right - plan.region.left + 0.5
        assert plan.image.height <= plan.region.bottom - plan.region.top + 0.5


@given(SIZES, resizes())
def test_the_aspect_is_kept_to_within_a_pixel(source: Size, resize: Resize) -> None:
    plan = layout(source, resize)
    if resize.mode != "fill":
        width, height = plan.region.right - plan.region.left, plan.region.bottom - plan.region.top
        assert _near(plan.image.width, max(1, plan.image.height * width / height), 1 + 0.5 * width / height) or _near(
            plan.image.height, max(1, plan.image.width * height / width), 1 + 0.5 * height / width
        )


@given(SIZES, resizes())
def test_what_is_taken_lies_within_the_image(source: Size, resize: Resize) -> None:
    region = layout(source, resize).region
    assert 0 <= region.left < region.right <= source.width
    assert 0 <= region.top < region.bottom <= source.height


@given(SIZES, resizes())
def test_fit_touches_a_bound_where_it_had_to_shrink(source: Size, resize: Resize) -> None:
    plan = layout(source, resize)
    if resize.mode == "fit" and plan.image != source and not resize.enlarge:
        widths = {side for side in (resize.width, resize.max_width) if side is not None}
        heights = {side for side in (resize.height, resize.max_height) if side is not None}
        assert plan.image.width == min(widths, default=0) or plan.image.height == min(heights, default=0)


@pytest.mark.parametrize(
    ("source", "resize", "expected"),
    [
        (Size(4000, 3000), Resize(), Layout(Region(0, 0, 4000, 3000), Size(4000, 3000), Size(4000, 3000))),
        (Size(4000, 3000), Resize(width=1024, height=1024), (1024, 768)),
        (Size(4000, 3000), Resize(height=300), (400, 300)),
        (Size(400, 300), Resize(width=1024), (400, 300)),
        (Size(400, 300), Resize(width=1024, enlarge=True), (1024, 768)),
        (Size(400, 300), Resize(mode="fill", width=100, height=200), (100, 200)),
        (Size(400, 300), Resize(mode="cover", width=1920, height=1080), (400, 225)),
        (Size(400, 300), Resize(mode="cover", width=1920, height=1080, enlarge=True), (1920, 1080)),
        (Size(4000, 3000), Resize(mode="cover", width=1920, height=1080, max_width=960), (960, 540)),
        (Size(16_384, 1), Resize(width=10), (10, 1)),
    ],
)
def test_examples(source: Size, resize: Resize, expected: Layout | tuple[int, int]) -> None:
    plan = layout(source, resize)
    assert plan == expected if isinstance(expected, Layout) else plan.canvas == expected


def test_contain_keeps_the_canvas_and_does_not_enlarge_the_image() -> None:
    plan = layout(Size(100, 50), Resize(mode="contain", width=300, height=300))
    assert (plan.image, plan.canvas) == (Size(100, 50), Size(300, 300))


@pytest.mark.parametrize(("focal", "left"), [(0.0, 0), (0.5, 150), (1.0, 300), (0.3, 30)])
def test_the_focal_point_stays_in_view(focal: float, left: float) -> None:
    plan = layout(Size(600, 300), Resize(mode="cover", width=100, height=100, focal_x=focal))
    assert plan.region.left == pytest.approx(left)
    assert plan.region.left <= focal * 600 <= plan.region.right
