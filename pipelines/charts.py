"""Pictures of a run as inline SVG: the error-uncertainty plane, histograms, bars.

Colours and text sizes come from CSS classes of the page (`kept`, `dropped`, `tick`, ...), so one picture
serves light and dark pages. Every function returns `Markup` that holds no text from the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROBUST_PERCENTILES = (0.5, 99.5)
BARS = 40
BAR_SPAN = (44, 312)  # of a histogram 320 wide; report.css aligns the sliders with it
PLANE_X, PLANE_Y = (56, 632), (404, 12)
# Told apart by shape as well as by colour. A line of no length with round ends is a disc.
_DISC, _CROSS, _DIAMOND = "h0", "m-2.2-2.2l4.4 4.4m0-4.4l-4.4 4.4", "m0-3.6l3.6 3.6-3.6 3.6-3.6-3.6z"
MARKS = {"kept": _DISC, "dropped": _CROSS, "suspect": _DIAMOND}  # by the class of the style
CELL_MARKS = {"kept": _DISC, "only-a": "m0-3.6l3.4 6h-6.8z", "only-b": _DIAMOND, "neither": _CROSS}
SMALLEST_RANGE = 1e-300  # a step of it would be no number
TILES = 26  # along each axis of the plane
NARROW = 110  # units of the picture: a region that its name does not fit into
_MIN_TILE_ROWS = 3  # a tile with fewer rows says nothing about the region


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values to SVG units; `start` is where `low` lies."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, values: Floats | float) -> Floats:
        """Positions of `values`; values outside the range lie outside the frame."""
        return np.asarray(
            self.start + (values - self.low) * (self.stop - self.start) / (self.high - self.low)
        )

    def ticks(self, wanted: int = 5) -> list[float]:
        """About `wanted` round numbers inside the range, 1, 2 or 5 times a power of ten apart.

        Example:
            >>> Scale(0.3, 4.2, 0, 100).ticks()
            [1.0, 2.0, 3.0, 4.0]
        """
        raw = (self.high - self.low) / wanted
        power = 10.0 ** np.floor(np.log10(raw))
        step = power * min((1, 2, 5, 10), key=lambda factor: abs(np.log(raw / (power * factor))))
        first, last = np.ceil(self.low / step - 1e-9), np.floor(self.high / step + 1e-9)
        return [round(float(i * step), 12) for i in np.arange(first, last + 1) + 0.0]  # + 0.0: no minus zero


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the plane in the units of its axes, infinite where it has no bound; "name: meaning"."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    name: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """What the axes of the plane show."""

    x_name: str
    y_name: str
    x_bounds: tuple[float, float]
    y_bounds: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing and how many rows lie outside its frame."""

    svg: Markup
    outside: int


def robust_range(values: Floats) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles, drawn apart where they are equal.

    Args:
        values: Finite numbers, at least one.

    Example:
        >>> robust_range(np.array([2.0, 2.0]))
        (1.0, 3.0)
    """
    low, high = (float(bound) for bound in np.percentile(values, ROBUST_PERCENTILES))
    # Compared relative to their size: a range below float resolution has no ticks
    if high - low <= max(1e-9 * max(abs(low), abs(high)), SMALLEST_RANGE):
        margin = 0.5 * max(1.0, abs(low))
        return low - margin, high + margin
    return low, high


def waterfall_bar(before: int, after: int, total: int) -> Markup:
    """One step of the flow: what is left, and at its right end what this step removed.

    Args:
        before: Rows that came into the step.
        after: Rows that left it.
        total: Rows that the full width stands for.
    """
    left, lost = (100 * share / max(total, 1) for share in (after, before - after))
    lost_width = max(lost, 0.4) if before > after else 0  # a single row must still be seen
    start = min(left, 100 - lost_width)
    return _bar(16, _part("left", 0, left) + _part("dropped", start, lost_width))


def share_bar(part: int, whole: int, css_class: str, height: int = 8) -> Markup:
    """A bar that fills the share `part` of `whole`, in the colour of `css_class`."""
    return _bar(height, _part(css_class, 0, 100 * part / max(whole, 1)))


def histogram(edges: Floats, kept: Ints, dropped: Ints) -> Markup:
    """Rows per bar, kept at the bottom and dropped on top.

    Args:
        edges: Ascending bounds of the bars, shape (bars + 1,), bars >= 1.
        kept: Kept rows in each bar, shape (bars,).
        dropped: Dropped rows in each bar.
    """
    x = Scale(float(edges[0]), float(edges[-1]), *BAR_SPAN)
    below, above = kept.astype(np.float64), (kept + dropped).astype(np.float64)
    y = Scale(0, max(1.0, float(above.max())), 128, 8)
    body = [
        *_y_axis(y, *BAR_SPAN, [tick for tick in y.ticks(3) if tick == int(tick)]),
        _bars(x(edges), y(0 * below), y(below), "kept"),
        _bars(x(edges), y(below), y(above), "dropped"),
        *_x_axis(x, 128, x.ticks(5)),
    ]
    return _svg(320, 152, "histogram", "Histogram of kept and dropped rows", body)


def plane(
    points: Floats,
    states: npt.NDArray[np.int8],
    frame: Frame,
    regions: Sequence[Region] = (),
    tiles: Ints | None = None,
    marks: Mapping[str, str] = MARKS,
) -> Picture:
    """Two scores against each other, a mark for each sampled row, with the region that was kept.

    The kept region is `regions` where the selection is known to be made of rectangles; without them it is
    the tiles in which more than half of all rows (not of the sample) were kept.

    Args:
        points: Finite, shape (2, n): the values on the level axis and on the upright one.
        states: Which of `marks` each row gets, shape (n,); of MARKS, 0 kept, 1 dropped, 2 suspect.
        frame: Names and bounds of the axes.
        regions: Rectangles to outline, with a name in a corner of each.
        tiles: Dropped and kept rows in each tile of the frame, shape (2, TILES, TILES); none for no tiles.
        marks: For each state, the class of its style and its path from the place of a row.
    """
    x, y = Scale(*frame.x_bounds, *PLANE_X), Scale(*frame.y_bounds, *PLANE_Y)
    inside = (points[0] >= x.low) & (points[0] <= x.high) & (points[1] >= y.low) & (points[1] <= y.high)
    body = ['<rect class="frame" x="56" y="12" width="576" height="392"/>']
    body += [_outline(region, x, y) for region in regions] or (
        [] if tiles is None else _kept_tiles(tiles, x, y)
    )
    body += _y_axis(y, *PLANE_X, y.ticks(6)) + _x_axis(x, PLANE_Y[0], x.ticks(8))
    for state, (css_class, mark) in enumerate(marks.items()):
        rows = inside & (states == state)
        path = "".join(
            f"M{a:.1f} {b:.1f}{mark}" for a, b in zip(x(points[0][rows]), y(points[1][rows]), strict=True)
        )
        body.append(f'<path class="mark {css_class}" d="{path}"/>')
    body += [_region_name(region, x, y) for region in regions if region.name]
    body.append(f'<text class="axis" x="344" y="444" text-anchor="middle">{escape(frame.x_name)}</text>')
    upright = 'transform="translate(16 208) rotate(-90)" text-anchor="middle"'
    body.append(f'<text class="axis" {upright}>{escape(frame.y_name)}</text>')
    picture = _svg(640, 452, "plane", "One mark for each sampled row", body)
    return Picture(picture, int((~inside).sum()))


def _region_name(region: Region, x: Scale, y: Scale) -> str:
    """Its name in its corner away from the middle of the plane."""
    left, right, bottom, top = _box(region, x, y)
    at_right, at_top = left + right > PLANE_X[0] + PLANE_X[1], top + bottom < PLANE_Y[0] + PLANE_Y[1]
    if right - left < NARROW:  # beside it
        column = left - 6 if at_right else right + 6
    else:
        column = right - 8 if at_right else left + 8
    line = top + 18 if at_top else bottom - 8
    anchor = "end" if at_right else "start"
    name, _, meaning = region.name.partition(": ")
    # `long`: a narrow page hides the meaning, which its legend tells too
    longer = f'<tspan class="long"> {meaning}</tspan>' if meaning else ""
    place = f'x="{column:.1f}" y="{line:.1f}" text-anchor="{anchor}"'
    return f'<text class="region-name" {place}>{name}{longer}</text>'


def _box(region: Region, x: Scale, y: Scale) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of what the frame shows of a region."""
    left, right = (float(x(np.clip(v, x.low, x.high))) for v in (region.x_low, region.x_high))
    bottom, top = (float(y(np.clip(v, y.low, y.high))) for v in (region.y_low, region.y_high))
    return left, right, bottom, top


def _outline(region: Region, x: Scale, y: Scale) -> str:
    left, right, bottom, top = _box(region, x, y)
    css_class = "region" if region.kept else "region away"
    size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="{css_class}" x="{left:.1f}" y="{top:.1f}" {size}/>'


def _kept_tiles(tiles: Ints, x: Scale, y: Scale) -> list[str]:
    dropped, kept = tiles
    width, height = (x.stop - x.start) / TILES, (y.start - y.stop) / TILES
    columns, lines = np.nonzero((dropped + kept >= _MIN_TILE_ROWS) & (kept > dropped))
    path = "".join(
        f"M{x.start + i * width:.1f},{y.start - (j + 1) * height:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"
        for i, j in zip(columns, lines, strict=True)
    )
    return [f'<path class="tile" d="{path}"/>'] if path else []


def _bars(edges: Floats, bottom: Floats, top: Floats, css_class: str) -> str:
    path = "".join(
        f"M{left + 0.4:.1f},{low:.1f}V{high:.1f}H{right - 0.4:.1f}V{low:.1f}z"
        for left, right, low, high in zip(edges[:-1], edges[1:], bottom, top, strict=True)
        if low > high
    )
    return f'<path class="{css_class}" d="{path}"/>'


def _x_axis(x: Scale, at: float, ticks: Sequence[float]) -> list[str]:
    line = f'<path class="axis-line" d="M{x.start},{at}H{x.stop}"/>'
    labels = (
        f'<text class="tick" x="{x(t):.1f}" y="{at + 16}" text-anchor="middle">{t:,.6g}</text>' for t in ticks
    )
    return [line, *labels]


def _y_axis(y: Scale, left: float, right: float, ticks: Sequence[float]) -> list[str]:
    parts = []
    for tick in ticks:
        at = float(y(tick))
        parts.append(f'<path class="grid" d="M{left},{at:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,.6g}</text>'
        )
    return parts


def _svg(width: int, height: int, css_class: str, label: str, body: Sequence[str]) -> Markup:
    return _drawn(
        f'class="{css_class}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}"', "".join(body)
    )


def _bar(height: int, parts: str) -> Markup:
    track = _part("track", 0, 100)
    return _drawn(f'class="bar" width="100%" height="{height}" aria-hidden="true"', track + parts)


def _part(css_class: str, start: float, width: float) -> str:
    return f'<rect class="{css_class}" x="{start:.2f}%" width="{width:.2f}%" height="100%"/>'


def _drawn(attributes: str, body: str) -> Markup:
    return Markup(f"<svg {attributes}>{body}</svg>")  # noqa: S704 - numbers and words of this file only
