"""One chart as inline SVG: a bar to the median, a line over the rounds, a mark at the goal.

Drawn by hand because the page must be one file that opens without a network; the chart libraries that can do that
bring megabytes of script.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from scripts.bench.figures import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench.figures import Figure

_WIDTH, _LABEL, _ROW, _BAR, _RIGHT = 900, 400, 30, 14, 130
_COLOUR = {"reached": "#2e7d4f", "not reached": "#b3402a", "": "#4a6fa5"}


def groups(figures: Sequence[Figure]) -> list[tuple[str, list[Figure]]]:
    """Measured figures by unit, in their order: only those of one unit share a scale."""
    found: dict[str, list[Figure]] = {}
    for each in figures:
        if each.values:
            found.setdefault(each.unit, []).append(each)
    return list(found.items())


def draw(unit: str, figures: Sequence[Figure]) -> str:
    """The chart of figures of one unit."""
    bounds = [each.goal.bound for each in figures if each.goal]
    top = max([*(each.high for each in figures), *bounds, 1e-12]) * 1.05
    height = _ROW * len(figures) + 10
    title = escape(f"{', '.join(each.name for each in figures)} in {unit}")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">']
    for number, each in enumerate(figures):
        parts += _row(each, 5 + number * _ROW, (_WIDTH - _LABEL - _RIGHT) / top)
    return "".join([*parts, "</svg>"])


def _row(each: Figure, y: int, scale: float) -> list[str]:
    def x(value: float) -> str:
        return f"{_LABEL + value * scale:.1f}"

    middle = y + _ROW / 2
    colour = _COLOUR[each.verdict]
    parts = [
        f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(each.name)}</text>',
        (
            f'<rect x="{_LABEL}" y="{middle - _BAR / 2}" width="{max(1.0, each.median * scale):.1f}" height="{_BAR}" '
            f'fill="{colour}"/>'
        ),
        f'<line x1="{x(each.low)}" x2="{x(each.high)}" y1="{middle}" y2="{middle}" class="spread"/>',
        *(f'<circle cx="{x(value)}" cy="{middle}" r="2.5" class="round"/>' for value in each.values),
        f'<text x="{_WIDTH - _RIGHT + 8}" y="{middle + 4}">{escape(shown(each.median))} {escape(each.unit)}</text>',
    ]
    if each.goal:
        at = x(each.goal.bound)
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{middle - _BAR}" y2="{middle + _BAR}" class="goal">'
            f"<title>{escape(str(each.goal))}</title></line>"
        )
    return parts
