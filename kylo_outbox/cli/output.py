"""How data is printed: tables for people, JSON of a stable shape for programs, both to stdout."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this nothing is changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done and change nothing.")]

_UNLIMITED = 10_000


def print_json(data: Any) -> None:
    """Print one JSON document; what JSON does not know (times, ids) becomes text."""
    print(json.dumps(data, indent=2, ensure_ascii=False, default=_plain))


def print_line(data: Any) -> None:
    """Print one JSON document on one line, at once."""
    print(json.dumps(data, ensure_ascii=False, default=_plain), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table: fitted to a terminal, whole lines anywhere else; nothing is coloured where colour is unwanted.

    Cells are data and never read as markup. Numbers stand on the right.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    filled = [[_cell(cell) for cell in row] for row in rows]
    whole = list(zip(*filled, strict=True)) if filled else [()] * len(columns)
    for name, cells in zip(columns, whole, strict=True):
        numbers = bool(cells) and all(cell.plain.replace(".", "", 1).isdigit() or not cell.plain for cell in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in filled:
        table.add_row(*row)
    terminal = sys.stdout.isatty()
    Console(highlight=False, width=None if terminal else _UNLIMITED).print(table)


def say(text: str) -> None:
    """Talk to people: stderr."""
    print(text, file=sys.stderr)


def confirmed(what: str, *, yes: bool, dry_run: bool) -> bool:
    """Whether a destructive verb may go on; says what it would do when it may not.

    Raises:
        typer.Exit: with code 2 when neither `--yes` nor `--dry-run` was given.
    """
    if dry_run:
        say(f"would {what}; nothing was changed")
        return False
    if not yes:
        say(f"this would {what}: say --yes to do it, --dry-run to look first")
        raise typer.Exit(2)
    return True


def duration(seconds: float | None) -> str:
    """Seconds as people read them: 0.4 s, 12 s, 3 min, 2.5 h, 4.1 d; empty for None."""
    if seconds is None:
        return ""
    for limit, unit, size in ((10, "s", 1), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{1 if limit == 10 or unit == 'h' else 0}f} {unit}"  # noqa: PLR2004 - seconds
    return f"{seconds / 86_400:.1f} d"


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: Any) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(str(value))
