"""The run as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scripts.bench import machine
from scripts.bench.figures import result_from
from scripts.bench.report import chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench.figures import Figure, Result


def write(found: dict[str, Any], path: Path) -> Path:
    """Write the page beside the figures; its path."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    results = [result_from(each) for each in found["results"]]
    text = environment.get_template("page.html.j2").render(
        run=found,
        machine=machine.as_lines(found),
        results=results,
        counts=counts(results),
        groups=chart.groups,
        draw=_draw,
    )
    path.write_text(text, encoding="utf-8")
    return path


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many goals were reached and missed, and how many figures have no value."""
    verdicts = [each.verdict for result in results for each in result.figures]
    names = {"reached": "reached", "missed": "not reached", "unmeasured": "not measured"}
    return {name: verdicts.count(verdict) for name, verdict in names.items()}


def _draw(unit: str, figures: Sequence[Figure]) -> Markup:
    return Markup(chart.draw(unit, figures))  # noqa: S704 - every text in it is escaped where it is drawn
