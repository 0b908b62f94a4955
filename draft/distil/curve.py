"""A training's loss and acceptance as an SVG picture; it knows no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _MARGIN = 760, 420, 56
_NAMES = 160  # width of the lines' names, on the right
_NAME_HEIGHT = 15
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One named row of points (step, value)."""

    name: str
    points: tuple[tuple[float, float], ...]


def draw(title: str, lines: Sequence[Line]) -> str:
    """The lines over the training's steps, one scale for all values, from 0 on."""
    points = [point for line in lines for point in line.points]
    most_steps = max((x for x, _ in points), default=1.0) or 1.0
    most = max((y for _, y in points), default=1.0) or 1.0

    def place(x: float, y: float) -> str:
        across = _MARGIN + x / most_steps * (_WIDTH - _MARGIN - _NAMES)
        return f"{across:.1f},{_HEIGHT - _MARGIN - y / most * (_HEIGHT - 2 * _MARGIN):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_MARGIN}" y="24" font-size="15">{title}</text>',
    ]
    for tick in range(_TICKS + 1):
        across, up = place(most_steps * tick / _TICKS, most * tick / _TICKS).split(",")
        parts.append(
            f'<text x="{across}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">'
            f"{most_steps * tick / _TICKS:.0f}</text>"
            f'<text x="{_MARGIN - 8}" y="{up}" text-anchor="end">{most * tick / _TICKS:.3g}</text>'
            f'<path d="M{_MARGIN} {up}H{_WIDTH - _NAMES}" stroke="#ddd"/>'
        )
    last = [line.points[-1] if line.points else (0.0, 0.0) for line in lines]
    ends = [float(place(*point).split(",")[1]) for point in last]
    for index, (line, at) in enumerate(zip(lines, _apart(ends), strict=True)):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in line.points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{_WIDTH - _NAMES + 6}" y="{at + 4:.1f}" fill="{colour}">{line.name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of names beside the ends of their lines, moved down where names would meet."""
    moved, last = list(heights), 0.0
    for index in sorted(range(len(heights)), key=lambda i: heights[i]):
        last = moved[index] = max(heights[index], last + _NAME_HEIGHT)
    return moved
