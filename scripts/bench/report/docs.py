"""The figures of a run as the marked part of `docs/performance.md`: no figure there is typed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.bench import machine
from scripts.bench.figures import result_from
from scripts.bench.report.page import counts

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.bench.figures import Figure, Result


def write(found: dict[str, Any], path: Path) -> None:
    """Replace what stands between the marks of this suite.

    Raises:
        ValueError: the file has no such marks.
    """
    begin, end = (f"<!-- bench {found['suite']}: {word} -->" for word in ("begin", "end"))
    head, mark, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closing, tail = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"{path.name} has no lines {begin} and {end}")
    path.write_text(f"{head}{begin}\n{render(found)}\n{end}{tail}", encoding="utf-8")


def render(found: dict[str, Any]) -> str:
    """The machine, then a table for each bench under the command that repeats it."""
    results = [result_from(each) for each in found["results"]]
    total = counts(results)
    lines = [
        (
            f"Run of {found['begun']}: {total['reached']} goals reached, {total['missed']} not reached, "
            f"{total['unmeasured']} figures not measured. Medians of {found['rounds']} rounds; "
            f"sizes x {found['scale']:g}."
        ),
        "",
        *(f"- {name}: {text}" for name, text in machine.as_lines(found)),
    ]
    for result in results:
        lines += ["", *_section(result)]
    return "\n".join(lines)


def _section(result: Result) -> list[str]:
    lines = [f"### {result.title}", "", f"`{result.command}`", ""]
    if result.failure:
        lines += [f"Failed: {_cell(result.failure)}", ""]
    if result.figures:
        lines += ["| figure | median | smallest to largest round | goal | |", "|---|---|---|---|---|"]
        lines += [_row(each) for each in result.figures]
    return lines


def _row(each: Figure) -> str:
    told = each.missing or each.note
    name = f"{each.name}<br>{told}" if told else each.name
    cells = (name, each.text, each.spread, str(each.goal or ""), each.verdict)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
