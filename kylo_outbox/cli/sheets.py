"""Verbs about Google Sheets: the local stand-in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path  # noqa: TC003 - typer reads the annotation when it runs
from typing import Annotated

import typer

from kylo_outbox import settings
from kylo_outbox.model.errors import Misconfigured

DEFAULT_PORT = 8099
_USAGE, _UNREACHABLE = 2, 3


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command("sheets-emulator")(sheets_emulator)


def sheets_emulator(
    *,
    port: Annotated[int, typer.Option(help="TCP port on this machine; 0 takes a free one.", min=0, max=65535)] = (
        DEFAULT_PORT
    ),
    data: Annotated[
        Path | None,
        typer.Option(help="Where workbooks are kept; default: sheets/ in KYLO_DATA_DIR.", show_default=False),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Answer 404 for unknown workbooks instead of making them on first use.")
    ] = False,
    quota: Annotated[
        int | None, typer.Option(help="Answer 429 to more reads, and to more writes, a minute (Google: 60).", min=1)
    ] = None,
) -> None:
    """Run a local server in the place of Google Sheets, until SIGTERM or Ctrl-C.

    It needs no account and keeps its tabs over restarts; its pages show them. Point the pipeline at it with
    KYLO_SHEETS_ENDPOINT and KYLO_SHEETS_POST=1.

    Example: kylo-outbox sheets-emulator --port 8099
    """
    if find_spec("jinja2") is None:
        typer.echo("The stand-in needs jinja2: pip install 'kylo-outbox[local]'", err=True)
        raise typer.Exit(_UNREACHABLE)
    # Imported here: other verbs must work without the extra, and start without loading a web server.
    from kylo_outbox.sheets.standin import server  # noqa: PLC0415

    try:
        server.run("127.0.0.1", port, data or settings.load().data_dir / "sheets", strict=strict, per_minute=quota)
    except Misconfigured as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_USAGE) from None
