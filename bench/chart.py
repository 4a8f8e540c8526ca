"""A bar chart as an SVG, drawn by hand: the reports need one kind of picture and no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

_LEFT, _WIDTH, _ROW, _BAR = 190, 420, 26, 16


def draw_bars(title: str, unit: str, bars: Sequence[tuple[str, float]], *, highlight: str) -> str:
    """Horizontal bars, one per (label, value), to scale; the one labelled `highlight` in another colour."""
    longest = max(value for _, value in bars)
    height = 40 + _ROW * len(bars)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 90}" height="{height}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for row, (label, value) in enumerate(bars):
        top = 34 + row * _ROW
        colour = "#1f6f8b" if label == highlight else "#c2cbd1"
        width = value / longest * _WIDTH
        lines.append(f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(label)}</text>')
        lines.append(f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
        lines.append(f'<text x="{_LEFT + width + 6:.1f}" y="{top + 13}">{value:g} {escape(unit)}</text>')
    return "\n".join([*lines, "</svg>", ""])
