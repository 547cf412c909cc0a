"""The figures of a run as the marked part of `docs/performance.md`: no figure there is typed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.bench import machine, registry
from scripts.bench.figures import result_from
from scripts.bench.report.page import counts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scripts.bench.figures import Figure, Result


def write(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Replace what stands between the marks of this suite. Of several runs each bench is taken from the last with it.

    Raises:
        ValueError: the file has no such marks, or the runs are of different suites.
    """
    suites = {run["suite"] for run in runs}
    if len(suites) != 1:
        raise ValueError(f"runs of {' and '.join(sorted(suites))} cannot be shown as one")
    begin, end = (f"<!-- bench {suite}: {word} -->" for suite in suites for word in ("begin", "end"))
    head, mark, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closing, tail = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"{path.name} has no lines {begin} and {end}")
    path.write_text(f"{head}{begin}\n{render(runs)}\n{end}{tail}", encoding="utf-8")


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The machine, then a table for each bench under the command that repeats it."""
    shown = {each["bench"]: (run, result_from(each)) for run in runs for each in run["results"]}
    known = [bench.name for bench in registry.SUITES[runs[0]["suite"]]]
    ordered = [
        shown[name] for name in sorted(shown, key=lambda name: known.index(name) if name in known else len(known))
    ]
    used = [run for run in runs if any(run is owner for owner, _ in ordered)]
    total = counts([result for _, result in ordered])
    lines = [
        (
            f"{'; '.join(_named(run) for run in used)}: {total['reached']} goals reached, {total['missed']} not "
            f"reached, {total['unmeasured']} figures not measured. Medians of the rounds; spread from the smallest to "
            "the largest."
        ),
        "",
        *_machines(used),
    ]
    for run, result in ordered:
        lines += ["", *_section(result, "" if len(used) == 1 else _named(run))]
    return "\n".join(lines)


def _named(run: dict[str, Any]) -> str:
    return f"Run of {run['begun']} ({run['rounds']} rounds, sizes x {run['scale']:g})"


def _machines(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What is the same for all runs once, the rest under the time of its run."""
    facts = [machine.as_lines(run) for run in runs]
    same = [fact for fact in facts[0] if all(fact in others for others in facts)]
    lines = [f"- {name}: {text}" for name, text in same]
    for run, own in zip(runs, facts, strict=True):
        when = "" if len(runs) == 1 else f", {run['begun']}"
        lines += [f"- {name}{when}: {text}" for name, text in own if (name, text) not in same]
    return lines


def _section(result: Result, run: str) -> list[str]:
    lines = [f"### {result.title}", "", f"`{result.command}`", ""]
    if run:
        lines += [f"{run}.", ""]
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
