"""Asking every store the same question; one that is away is told on stderr and stops no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from kylo_outbox.cli.output import say
from kylo_outbox.model.errors import KyloError, Misconfigured, Refused
from kylo_outbox.store import identity
from kylo_outbox.wiring.parts import require_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.cli.context import Context

T = TypeVar("T")


def ask_all(
    context: Context, question: Callable[[Any], T], *, only: str | None = None
) -> tuple[list[tuple[str, T]], bool]:
    """Ask every store, in a transaction each.

    Args:
        context: Of the verb.
        question: Gets an open connection (a function of `store/` takes it) and answers.
        only: Ask this store alone.

    Returns:
        (store id, answer) of each store that answered, the control store first, and whether all did.

    Raises:
        Unreachable, NotReady: the control database is away or not migrated.
        Misconfigured: every store answered, and none of them is `only`.
        Refused: by the question itself.
    """
    require_schema(context.parts)
    answers = []
    names = []
    complete = True
    for store in context.parts.directory.stores():
        problem = store.problem
        if problem is None:
            try:
                with store.database.begin() as connection:
                    names.append(identity.identity(connection).store.store_id)
                    if only in {None, names[-1]}:
                        answers.append((names[-1], question(connection)))
            except Refused:
                raise
            except KyloError as away:
                problem = str(away)
        if problem is not None:
            say(f"{problem} (companies {', '.join(store.companies) or '-'})")
            complete = False
    if only is not None and only in names:
        return answers, bool(answers)
    if only is not None and complete:
        raise Misconfigured(f"--store {only}: there is no such store; there are {', '.join(names)}")
    return answers, complete
