"""The command `kylo-outbox`: verbs, their answers and exit codes. Nothing is decided here; flows do the work.

Exit codes: 0 done, 1 refused or failed, 2 wrong use or settings, 3 a dependency is away or not ready, 4 partly done.
Data goes to stdout, talk to stderr; an error is one line with its remedy, never a stack trace or a secret.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kylo_outbox import __version__
from kylo_outbox.cli import (
    company,
    context,
    dlq_acts,
    doctor,
    ingest,
    lag,
    lanes,
    migrate,
    outbox,
    rebuild,
    republish,
    rules,
    run,
    sheets,
    stack,
    store,
    tabs,
    topics,
    verify,
)
from kylo_outbox.cli.errors import Told

if TYPE_CHECKING:
    from collections.abc import Callable

_USAGE = 2

app = typer.Typer(
    cls=Told,
    name="kylo-outbox",
    help=(
        "Transactional outbox between PostgreSQL, Apache Kafka and Google Sheets.\n\n"
        "Example: kylo-outbox up --detach && kylo-outbox company add 710 --spreadsheet 1AbC"
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

_REGISTER: tuple[Callable[[typer.Typer], None], ...] = (
    stack.register,
    migrate.register,
    topics.register,
    company.register,
    rules.register,
    run.register,
    sheets.register,
    tabs.register,
    ingest.register,
    outbox.register,
    dlq_acts.register,
    republish.register,
    verify.register,
    rebuild.register,
    lag.register,
    lanes.register,
    store.register,
    doctor.register,
)
for _add in _REGISTER:
    _add(app)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def every_verb(
    ctx: typer.Context,
    *,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log everything to stderr.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Settle what holds for every verb."""
    context.begin(ctx, verbose=verbose)


def main() -> None:
    """Run the command with the arguments of this process, and leave with its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout may be run without being installed
        print("kylo-outbox needs Python 3.11 or newer", file=sys.stderr)
        sys.exit(_USAGE)
    app()
