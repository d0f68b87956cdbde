"""Pictures of a run as inline SVG: the error-uncertainty plane, histograms, bars.

Colours and text sizes come from CSS classes of the page (`kept`, `dropped`, `tick`, ...), so one picture
serves light and dark pages. Every function returns `Markup` that holds no text from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ROBUST_PERCENTILES = (0.5, 99.5)
BINS = 40
TILES = 26  # along each axis of the plane
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
    """A rectangle of the plane in nats; infinite where it has no bound."""

    loss_low: float
    loss_high: float
    entropy_low: float
    entropy_high: float


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
    if high - low <= 1e-9 * max(abs(low), abs(high)):
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


def histogram(kept: Floats, dropped: Floats) -> Picture:
    """Rows per bin, kept at the bottom and dropped on top, over the robust range of both together.

    Args:
        kept: Finite values of the kept rows.
        dropped: Finite values of the dropped rows; with `kept` at least one value.
    """
    low, high = robust_range(np.concatenate([kept, dropped]))
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(values, edges)[0].astype(np.float64) for values in (kept, dropped)]
    x = Scale(low, high, 44, 312)
    y = Scale(0, float(max(1, (counts[0] + counts[1]).max())), 128, 8)
    nothing = np.zeros(BINS)
    body = [
        *_y_axis(y, 44, 312, [tick for tick in y.ticks(3) if tick == int(tick)]),
        _bars(x(edges), y(nothing), y(counts[0]), "kept"),
        _bars(x(edges), y(counts[0]), y(counts[0] + counts[1]), "dropped"),
        *_x_axis(x, 128, x.ticks(5)),
    ]
    inside = int(counts[0].sum() + counts[1].sum())
    return Picture(
        _svg(320, 152, "histogram", "Histogram of kept and dropped rows", body),
        len(kept) + len(dropped) - inside,
    )


def plane(
    loss: Floats, entropy: Floats, kept: Bools, sample: npt.NDArray[np.int64], regions: Sequence[Region] = ()
) -> Picture:
    """Loss against entropy, one dot per sampled row, with the region that was kept.

    The kept region is `regions` where the selection is known to be made of rectangles; without them it is
    the tiles in which more than half of all rows (not of the sample) were kept.

    Args:
        loss: Nats per token, finite, shape (n,), n >= 1.
        entropy: Nats per token, finite, shape (n,).
        kept: Shape (n,).
        sample: Indices of the rows that get a dot.
        regions: Outlines of the kept region; four quadrants are named when there is one.
    """
    x = Scale(*robust_range(loss), 56, 632)
    y = Scale(*robust_range(entropy), 404, 12)
    inside = (loss >= x.low) & (loss <= x.high) & (entropy >= y.low) & (entropy <= y.high)
    shown = sample[inside[sample]]
    body = ['<rect class="frame" x="56" y="12" width="576" height="392"/>']
    body += [_outline(region, x, y) for region in regions] or _kept_tiles(loss, entropy, kept, x, y)
    body += _y_axis(y, 56, 632, y.ticks(6)) + _x_axis(x, 404, x.ticks(8))
    for css_class, rows in (("dropped", shown[~kept[shown]]), ("kept", shown[kept[shown]])):
        dots = (
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>'
            for a, b in zip(x(loss[rows]), y(entropy[rows]), strict=True)
        )
        body.append(f'<g class="dot {css_class}">{"".join(dots)}</g>')
    if regions:
        body += _quadrant_names()
    body.append('<text class="axis" x="344" y="444" text-anchor="middle">loss (nats/token)</text>')
    upright = 'transform="translate(16 208) rotate(-90)" text-anchor="middle"'
    body.append(f'<text class="axis" {upright}>entropy (nats/token)</text>')
    picture = _svg(640, 452, "plane", "Loss against entropy of kept and dropped rows", body)
    return Picture(picture, int((~inside[sample]).sum()))


def _quadrant_names() -> list[str]:
    corners = (
        (624, 30, "end", "Q1", "high loss, high entropy"),
        (624, 396, "end", "Q2", "high loss, low entropy"),
        (64, 396, "start", "Q3", "low loss, low entropy"),
        (64, 30, "start", "Q4", "low loss, high entropy"),
    )
    # `long`: a narrow page hides the meaning, which its legend tells too
    return [
        f'<text class="quadrant" x="{x}" y="{y}" text-anchor="{anchor}">{name}'
        f'<tspan class="long"> {meaning}</tspan></text>'
        for x, y, anchor, name, meaning in corners
    ]


def _outline(region: Region, x: Scale, y: Scale) -> str:
    left, right = (float(x(np.clip(v, x.low, x.high))) for v in (region.loss_low, region.loss_high))
    bottom, top = (float(y(np.clip(v, y.low, y.high))) for v in (region.entropy_low, region.entropy_high))
    width, height = right - left, bottom - top
    return f'<rect class="region" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _kept_tiles(loss: Floats, entropy: Floats, kept: Bools, x: Scale, y: Scale) -> list[str]:
    edges = [np.linspace(x.low, x.high, TILES + 1), np.linspace(y.low, y.high, TILES + 1)]
    rows = np.histogram2d(loss, entropy, edges)[0]
    kept_rows = np.histogram2d(loss[kept], entropy[kept], edges)[0]
    width, height = (x.stop - x.start) / TILES, (y.start - y.stop) / TILES
    columns, lines = np.nonzero((rows >= _MIN_TILE_ROWS) & (2 * kept_rows > rows))
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
