"""Draw the stages of both sides as stacked bars, in SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from joyimage.benchmark.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLORS = dict(zip(STAGES, ("#4c78a8", "#f2a541", "#3a9a8f", "#b0567f"), strict=True))
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 860, 150, 90, 44, 22, 64


def draw_stages(seconds: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """Draw one bar per side, its stages one behind the other, to one scale.

    Args:
        seconds: By side and stage, a summary with "median".
        title: Above the bars.

    Returns:
        An SVG document.
    """
    totals = {side: sum(stages[stage]["median"] for stage in STAGES) for side, stages in seconds.items()}
    scale = (_WIDTH - _LEFT - _RIGHT) / max(totals.values())
    height = _TOP + len(seconds) * (_BAR + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="14">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (stage, color) in enumerate(_COLORS.items()):
        x = _LEFT + number * 160
        parts.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="45">{stage}</text>')
    for row, (side, stages) in enumerate(seconds.items()):
        y = _TOP + row * (_BAR + _GAP)
        middle = y + _BAR / 2 + 5
        parts.append(f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{escape(side)}</text>')
        x = float(_LEFT)
        for stage, color in _COLORS.items():
            width = stages[stage]["median"] * scale
            shown = f"{side}, {stage}: {stages[stage]['median']:.3f} s"
            parts.append(
                f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_BAR}" fill="{color}">'
                f"<title>{escape(shown)}</title></rect>"
            )
            x += width
        parts.append(f'<text x="{x + 8:.2f}" y="{middle}">{totals[side]:.2f} s</text>')
    return "\n".join([*parts, "</svg>", ""])
