"""Draw a piece of a timeline written with `--trace` as an SVG: who works when, what was a hit.

    python benchmarks/timeline_svg.py trace.json overlap.svg --start-ms 400 --width-ms 600

The picture follows the reader's light or dark theme and needs no script.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]

WIDTH, LEFT, RIGHT, TOP, LANE, GAP = 1000, 90, 30, 34, 34, 12
LANES = {"target": 0, "draft": 1, "waiting": 2}
STYLE = """
svg { font: 12px system-ui, sans-serif; }
.ground { fill: #ffffff; } .text { fill: #1f2328; } .faint { fill: #59636e; }
.grid { stroke: #d1d9e0; } .lane { fill: #f6f8fa; }
.pass { fill: #0969da; } .ahead { fill: #1a7f37; } .draft { fill: #bf8700; }
.wait { fill: #cf222e; } .hit { fill: #1a7f37; } .miss { fill: #cf222e; } .on { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
  .grid { stroke: #3d444d; } .lane { fill: #151b23; }
  .pass { fill: #4493f8; } .ahead { fill: #3fb950; } .draft { fill: #d29922; }
  .wait { fill: #f85149; } .hit { fill: #3fb950; } .miss { fill: #f85149; } .on { fill: #0d1117; }
}
"""
LEGEND = (
    ("pass", "pass of the target"),
    ("ahead", "draft step while the target works"),
    ("draft", "draft step that is waited for"),
    ("wait", "target waits"),
)


def kind_of(event: Event) -> tuple[str, str] | None:
    """Lane and style class of a span."""
    name = str(event["name"])
    if name.startswith("pass"):
        return "target", "pass"
    if name in ("ahead", "draft"):
        return "draft", name
    return ("waiting", "wait") if name == "wait for draft" else None


def lane_y(lane: str) -> int:
    """Top of a lane."""
    return TOP + LANES[lane] * (LANE + GAP)


def draw(events: Sequence[Event], start_ms: float, width_ms: float) -> str:
    """The SVG of a window of time."""
    scale = (WIDTH - LEFT - RIGHT) / width_ms
    height = lane_y("waiting") + LANE + 58
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Timeline of target and draft">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
    ]
    lane_width = WIDTH - LEFT - RIGHT
    for lane in LANES:
        y = lane_y(lane)
        parts.append(f'<text class="text" x="8" y="{y + 22}">{lane}</text>')
        parts.append(
            f'<rect class="lane" x="{LEFT}" y="{y}" width="{lane_width}" height="{LANE}"/>'
        )
    parts += axis(width_ms, scale, lane_y("waiting") + LANE)
    for event in events:
        parts += drawn(event, start_ms, width_ms, scale)
    x = float(LEFT)
    for style, text in LEGEND:
        y = height - 12
        parts.append(f'<rect class="{style}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>')
        parts.append(f'<text class="faint" x="{x + 17}" y="{y}">{text}</text>')
        x += 34 + 6.3 * len(text)
    return "\n".join([*parts, "</svg>\n"])


def axis(width_ms: float, scale: float, bottom: int) -> list[str]:
    """Marks every so many milliseconds."""
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if width_ms / s <= 12)
    parts = []
    for mark in range(0, int(width_ms) + 1, step):
        x = LEFT + mark * scale
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{bottom + 4}"/>'
        )
        parts.append(
            f'<text class="faint" x="{x:.1f}" y="{bottom + 18}" '
            f'text-anchor="middle">{mark} ms</text>'
        )
    return parts


def drawn(event: Event, start_ms: float, width_ms: float, scale: float) -> list[str]:
    """One event, cut at the window's edges."""
    begin = float(event["ts"]) / 1e3 - start_ms
    end = begin + float(event.get("dur", 0.0)) / 1e3
    if end < 0.0 or begin > width_ms:
        return []
    if event["ph"] == "i":
        style = "hit" if event["name"] == "hit" else "miss"
        x = LEFT + max(begin, 0.0) * scale
        return [f'<text class="{style}" x="{x:.1f}" y="{TOP - 12}">{style}</text>']
    kind = kind_of(event)
    if kind is None:
        return []
    lane, style = kind
    x, right = LEFT + max(begin, 0.0) * scale, LEFT + min(end, width_ms) * scale
    y, width = lane_y(lane) + 3, max(right - x - 0.7, 0.6)
    size = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LANE - 6}"'
    parts = [f'<rect class="{style}" {size} rx="2"/>']
    facts = event["args"]
    label = f"{facts['accepted']} of {facts['checked']}" if lane == "target" else ""
    if lane == "draft" and facts["rows"] > 1:
        label = str(facts["rows"])
    if label and width > 7 * len(label):
        middle = f'x="{x + width / 2:.1f}" y="{y + 18}" text-anchor="middle"'
        parts.append(f'<text class="on" {middle}>{label}</text>')
    return parts


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("trace", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--start-ms", type=float, default=0.0)
    parser.add_argument("--width-ms", type=float, default=600.0)
    args = parser.parse_args()
    events = json.loads(args.trace.read_text(encoding="utf-8"))["traceEvents"]
    spans = [event for event in events if event["ph"] != "M"]
    args.picture.write_text(draw(spans, args.start_ms, args.width_ms), encoding="utf-8")


if __name__ == "__main__":
    main()
