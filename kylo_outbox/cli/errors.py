"""How errors of every verb are told: one line with the remedy, and the exit code that scripts can rely on."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup

from kylo_outbox.model.errors import KyloError, Misconfigured, NotReady, Refused, Transient
from kylo_outbox.telemetry.logs import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED: Final = 1
USAGE: Final = 2
AWAY: Final = 3
PARTLY: Final = 4
_INTERRUPTED: Final = 130

log = logging.getLogger(__name__)


class Told(TyperGroup):
    """The command as a whole: whatever a verb raises leaves as a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except KyloError as error:
            tell(error)
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader has seen enough (`| head`); the interpreter would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, (typer.Exit, typer.Abort)):
                raise
            tell_unexpected(error)
            raise typer.Exit(FAILED) from None


def exit_code(error: KyloError) -> int:
    """The exit code for an error of ours."""
    if isinstance(error, Misconfigured):
        return USAGE
    return AWAY if isinstance(error, (Transient, NotReady)) else FAILED


def tell(error: KyloError) -> None:
    """Say an error of ours: a line for each fault."""
    lines: Sequence[str] = error.faults if isinstance(error, Refused) else [str(error)]
    for line in lines:
        print(redact(line), file=sys.stderr)
    log.debug("where it came from", exc_info=error)


def tell_unexpected(error: Exception) -> None:
    """Say an error that nobody foresaw, without its stack (-v logs that)."""
    first = (str(error).splitlines() or [""])[0]
    print(redact(f"unexpected {type(error).__name__}: {first} (-v shows where)"), file=sys.stderr)
    log.debug("where it came from", exc_info=error)
