"""Tokens per second over the draft length, by kind of text, as an SVG; it measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from specdec.tune.halving import Trial

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 44, 52
_COLOURS = ("#7d8590", "#3b76c4", "#c9722b", "#3f9a5f", "#b0497e", "#7a63c2", "#8a7a1f", "#2f9aa0")
_STYLE = """
 text { font: 13px system-ui, sans-serif; fill: #333; }
 .title { font-size: 15px; font-weight: 600; }
 .grid { stroke: #ddd; } .back { fill: #fff; }
 .few { fill-opacity: .35; }
 @media (prefers-color-scheme: dark) {
  text { fill: #ddd; } .grid { stroke: #444; } .back { fill: #16181c; }
 }
"""


def curve_svg(
    trials: Sequence[Trial], drafter: str, batch_size: int, kinds: Sequence[str], title: str
) -> str:
    """Lines through the fixed lengths of one drafter, the adaptive rate as a dashed level.

    Settings ran different numbers of prompts, so each is placed by its share of the one that ran
    most, on the prompts of both. Points that rest on fewer prompts are paler.
    """
    reference = max(trials, key=lambda trial: len(trial.samples))
    own = [
        trial
        for trial in trials
        if trial.setting.drafter in ("", drafter) and trial.setting.batch_size == batch_size
    ]
    curves = [_Curve("all kinds", own, reference, "")]
    curves += [_Curve(kind.replace("_", " "), own, reference, kind) for kind in kinds]
    curves = [curve for curve in curves if len(curve.points) > 1]
    rates = [point.tokens_per_s for curve in curves for point in curve.points]
    rates += [curve.adaptive for curve in curves]
    longest = max(trial.setting.draft_length for trial in own)
    frame = _Frame(longest, _ceiling(max(rates, default=1.0)))
    parts = [*frame.axes(title)]
    for index, curve in enumerate(curves):
        parts += frame.line(curve, _COLOURS[index % len(_COLOURS)])
        parts += frame.legend(index, curve, _COLOURS[index % len(_COLOURS)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        f'<rect class="back" width="{_WIDTH}" height="{_HEIGHT}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


@dataclass(frozen=True, slots=True)
class _Point:
    draft_length: int
    tokens_per_s: float
    is_sure: bool  # rests on as many prompts as any


class _Curve:
    """One kind of text under one drafter."""

    def __init__(self, name: str, own: Sequence[Trial], reference: Trial, kind: str) -> None:
        self.name = name
        self.is_sum = not kind
        scale = reference.tokens_per_s_of(kind)
        rates = [(trial, scale * trial.share_of(reference, kind)) for trial in own]
        most = len(reference.samples)
        self.points = sorted(
            (
                _Point(trial.setting.draft_length, value, len(trial.samples) == most)
                for trial, value in rates
                if value and trial.setting.is_fixed
            ),
            key=lambda point: point.draft_length,
        )
        adaptive = (value for trial, value in rates if not trial.setting.is_fixed)
        self.adaptive = next(adaptive, 0.0)


class _Frame:
    """Places numbers in the picture."""

    def __init__(self, longest: int, highest: float) -> None:
        self._longest = max(longest, 1)
        self._highest = highest

    def x(self, draft_length: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * draft_length / self._longest

    def y(self, tokens_per_s: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * tokens_per_s / self._highest

    def axes(self, title: str) -> Iterator[str]:
        """Title, grid and numbers."""
        yield f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>'
        for step in range(6):
            value = self._highest * step / 5
            y = self.y(value)
            yield (
                f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
                f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
            )
        for length in range(0, self._longest + 1, 1 if self._longest <= 8 else 3):
            yield (
                f'<text x="{self.x(length):.1f}" y="{_HEIGHT - _BOTTOM + 20}" '
                f'text-anchor="middle">{length}</text>'
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        yield (
            f'<text x="{middle:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">'
            "draft length (0: plain), vertical: tokens per second, measured</text>"
        )

    def line(self, curve: _Curve, colour: str) -> Iterator[str]:
        """One curve with a dot per setting."""
        places = [(self.x(p.draft_length), self.y(p.tokens_per_s), p.is_sure) for p in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        width = 3.5 if curve.is_sum else 1.75
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        for x, y, is_sure in places:
            pale = "" if is_sure else ' class="few"'
            yield f'<circle{pale} cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'

    def legend(self, index: int, curve: _Curve, colour: str) -> Iterator[str]:
        """The curve's name, and its adaptive rate as a level."""
        x, y = _WIDTH - _RIGHT + 22, _TOP + 12 + 42 * index
        yield f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colour}"/>'
        yield f'<text x="{x + 12}" y="{y}">{escape(curve.name)}</text>'
        if curve.adaptive:
            height = self.y(curve.adaptive)
            yield f'<text x="{x + 12}" y="{y + 17}">auto {curve.adaptive:.1f}</text>'
            yield (
                f'<path d="M{_LEFT} {height:.1f}H{_WIDTH - _RIGHT}" stroke="{colour}" '
                'stroke-dasharray="2 5"/>'
            )


def _ceiling(value: float) -> float:
    """The next round number, so that fifths of it are readable."""
    scale = 1.0
    while scale * 10 < value:
        scale *= 10
    while scale > value:
        scale /= 10
    return next(
        scale * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if scale * step >= value
    )
