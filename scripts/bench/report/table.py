"""The figures in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from scripts.bench.figures import result_from

if TYPE_CHECKING:
    from rich.console import Console

_STYLE = {"reached": "green", "not reached": "red", "not measured": "yellow", "": ""}


def show(found: dict[str, Any], console: Console) -> None:
    """Print every figure of a run with its spread and its goal."""
    for result in map(result_from, found["results"]):
        grid = Table(title=f"{result.title} ({result.seconds:.0f} s)", title_justify="left")
        for name in ("figure", "median", "rounds", "goal", ""):
            grid.add_column(name, justify="left" if name == "figure" else "right")
        for each in result.figures:
            goal = str(each.goal) if each.goal else ""
            style = _STYLE[each.verdict]
            verdict = f"[{style}]{each.verdict}[/]" if style else ""
            grid.add_row(each.name, each.text, each.spread, goal, verdict)
        console.print(grid)
        for line in [result.failure, *(f"{each.name}: {each.missing}" for each in result.figures if each.missing)]:
            if line:
                console.print(line, style="yellow", markup=False)
